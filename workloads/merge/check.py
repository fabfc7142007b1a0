"""Looks at the adapter that a merge stage is given."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from workloads.check import Findings, located
from workloads.models.check import check_model
from workloads.models.resolve import adapter_base, resolve_model


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The adapter must be one, and its base model must be there."""
    findings = Findings()
    source = check_model(loaded, stage, findings)
    if source is None:
        return findings
    if not source.is_adapter:
        findings.problems.append(
            loaded.problem(
                f"stages.{stage.name}.model",
                f"{stage.spec.model!r} is a full model: there is nothing to merge",
                "give a folder with an adapter_config.json, or ${stages.X.model} of a stage with "
                "tuner type lora; or delete this stage",
            )
        )
        return findings
    try:
        resolve_model(adapter_base(Path(source.name)), loaded.base_folders)
    except UserError as error:
        findings.problems += located(loaded, stage, "model", error)
    return findings
