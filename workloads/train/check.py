"""Looks at the model, the datasets and the chat template of a training stage."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from workloads.check import Findings, located
from workloads.data.check import check_dataset
from workloads.models.check import check_full_model
from workloads.models.resolve import ModelSource, read_json

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json",
    "vocab.txt",
)  # fmt: skip


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The model must be a full one with a chat template; the datasets must have usable rows."""
    spec = stage.spec
    assert isinstance(spec, SftSpec)
    findings = Findings()
    check_trained_model(loaded, stage, spec, findings)
    check_dataset(loaded, stage.name, spec.dataset, findings)
    return findings


def check_trained_model(
    loaded: LoadedSpec, stage: StagePlan, spec: SftSpec | GrpoSpec, findings: Findings
) -> ModelSource | None:
    """The model that a stage starts from must be a full one with a tokenizer and chat template.

    Returns where it is; None where another stage makes it, or it can't be used.
    """
    source = check_full_model(loaded, stage, findings, "model", spec.model)
    if source and source.kind == "folder":
        try:
            check_tokenizer(Path(source.name), spec.model, spec.dataset.chat_template)
        except UserError as error:
            findings.problems += located(loaded, stage, "model", error)
    return source


def check_tokenizer(folder: Path, model: str, chat_template: str | None) -> None:
    """Checks that a model's folder holds a tokenizer, and that there is a chat template.

    Raises:
        UserError: if not.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"{str(folder)!r} holds a model without its tokenizer",
            "save the tokenizer into the same folder: tokenizer.save_pretrained",
        )
    if not has_chat_template(folder) and not chat_template:
        raise UserError(
            f"the tokenizer of {model!r} has no chat template",
            "use an instruct model, or give a Jinja file as dataset.chat_template",
        )


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer in a folder has a chat template.

    Raises:
        UserError: if its files are broken.
    """
    configs = [folder / name for name in ("tokenizer.json", "tokenizer_config.json")]
    read = {path.name: read_json(path) for path in configs if path.is_file()}
    templates = ("chat_template.jinja", "chat_template.json")
    return "chat_template" in read.get("tokenizer_config.json", {}) or any(
        (folder / name).is_file() for name in templates
    )
