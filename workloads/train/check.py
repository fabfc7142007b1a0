"""Looks at the model, the datasets and the chat template of a training stage."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.sft import SftSpec
from workloads.check import Findings, located
from workloads.data.check import check_dataset
from workloads.models.check import check_model
from workloads.models.resolve import read_json

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json",
    "vocab.txt",
)  # fmt: skip


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
    elif source and source.kind == "folder":
        try:
            _check_tokenizer(Path(source.name), spec)
        except UserError as error:
            findings.problems += located(loaded, stage, "model", error)
    check_dataset(loaded, stage.name, spec.dataset, findings)
    return findings


def _check_tokenizer(folder: Path, spec: SftSpec) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"{str(folder)!r} holds a model without its tokenizer",
            "save the tokenizer into the same folder: tokenizer.save_pretrained",
        )
    configs = [folder / name for name in ("tokenizer.json", "tokenizer_config.json")]
    read = {path.name: read_json(path) for path in configs if path.is_file()}
    templates = ("chat_template.jinja", "chat_template.json")
    if (
        not spec.dataset.chat_template
        and "chat_template" not in read.get("tokenizer_config.json", {})
        and not any((folder / name).is_file() for name in templates)
    ):
        raise UserError(
            f"the tokenizer of {spec.model!r} has no chat template",
            "use an instruct model, or give a Jinja file as dataset.chat_template",
        )
