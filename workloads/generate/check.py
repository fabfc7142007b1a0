"""Looks at a model that engines are to be asked with."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from workloads.check import Findings, located
from workloads.models.adapter import base_model, check_adapter
from workloads.models.check import check_context, check_model, check_weights
from workloads.models.resolve import ModelSource
from workloads.train.check import check_tokenizer, has_chat_template


def check_asked_model(
    loaded: LoadedSpec, stage: StagePlan, findings: Findings, field: str, model: str,
    chat_template: str | None, tokens: int,
) -> None:  # fmt: skip
    """The model must be a full one, or an adapter that engines take, with a chat template.

    Args:
        loaded: the spec.
        stage: the stage that asks.
        findings: gets what is wrong.
        field: the stage's field that names the model.
        model: what the field says.
        chat_template: the dataset's own.
        tokens: of prompt and answer together.
    """
    source = check_model(loaded, stage, findings, field, model)
    if source is None or source.kind != "folder":
        return
    folder = Path(source.name)
    try:
        base = _base(loaded, folder) if source.is_adapter else source
        if base.kind == "folder":
            own = source.is_adapter and has_chat_template(folder)
            check_tokenizer(folder if own else Path(base.name), model, chat_template)
            remedy = "lower dataset.max_length, or how many tokens are written"
            check_context(loaded, stage, Path(base.name), tokens, findings, remedy)
    except UserError as error:
        findings.problems += located(loaded, stage, field, error)


def _base(loaded: LoadedSpec, adapter: Path) -> ModelSource:
    check_adapter(adapter)
    base = base_model(adapter, loaded.base_folders)
    check_weights(base)
    return base
