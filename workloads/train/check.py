"""Looks at the model, the datasets and the chat template of a training stage."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.sft import SftSpec
from workloads.check import Findings
from workloads.data.check import check_dataset
from workloads.models.check import check_model
from workloads.models.resolve import ModelSource, read_json


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The model must be a full one with a chat template; the datasets must have usable rows."""
    spec = stage.spec
    assert isinstance(spec, SftSpec)
    findings = Findings()
    source = check_model(loaded, stage, findings)
    if source and source.is_adapter:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.model",
                f"{spec.model!r} is an adapter, and a full model is needed",
                f"add a stage and use its model: merge: {{kind: merge, model: {spec.model}}}",
            )
        )
    elif source and not spec.dataset.chat_template and not _has_chat_template(source):
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.model",
                f"the tokenizer of {spec.model!r} has no chat template",
                "use an instruct model, or give a Jinja file as dataset.chat_template",
            )
        )
    check_dataset(loaded, stage.name, spec.dataset, findings)
    return findings


def _has_chat_template(source: ModelSource) -> bool:
    if source.kind != "folder":
        return True
    folder = Path(source.name)
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = folder / "tokenizer_config.json"
    try:
        return not config.is_file() or "chat_template" in read_json(config)
    except UserError:
        return True
