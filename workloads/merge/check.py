"""Looks at the adapter that a merge stage is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.merge import MergeSpec
from workloads.check import Findings, located
from workloads.models.check import check_model, check_weights
from workloads.models.resolve import ADAPTER_CONFIG, adapter_base, read_json, resolve_model


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The adapter must be one, and its base model must be there."""
    findings, spec = Findings(), stage.spec
    assert isinstance(spec, MergeSpec)
    source = check_model(loaded, stage, findings, "model", spec.model)
    if source is None:
        return findings
    if not source.is_adapter:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.model",
                f"{spec.model!r} is a full model: there is nothing to merge",
                "give a folder with an adapter_config.json, or ${stages.X.model} of a stage with "
                "tuner type lora; or delete this stage",
            )
        )
        return findings
    try:
        check_adapter(Path(source.name), loaded.base_folders)
    except UserError as error:
        findings.problems += located(loaded, stage, "model", error)
    return findings


def check_adapter(folder: Path, base_folders: Sequence[str]) -> None:
    """Checks that an adapter can be merged, and that its base model is there.

    Raises:
        UserError: if it can't, or is not.
    """
    config = folder / ADAPTER_CONFIG
    if (kind := read_json(config).get("peft_type", "LORA")) != "LORA":
        reason = f"the adapter in {str(folder)!r} is of type {kind}, and only LORA can be merged"
        raise UserError(reason, "give a LoRA adapter")
    base = adapter_base(folder)
    remedy = f"correct base_model_name_or_path in {config}"
    try:
        source = resolve_model(base, base_folders)
        check_weights(source)
    except UserError as error:
        reason = f"the base model of the adapter in {str(folder)!r}: {error.message}"
        raise UserError(reason, f"{error.remedy}; or {remedy}") from error
    if source.is_adapter:
        reason = f"the base model of the adapter in {str(folder)!r} is an adapter itself: {base!r}"
        raise UserError(reason, remedy)
