"""Looks at a model that a stage starts from."""

from __future__ import annotations

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from workloads.check import Findings, located
from workloads.models.resolve import ModelSource, resolve_model


def check_model(loaded: LoadedSpec, stage: StagePlan, findings: Findings) -> ModelSource | None:
    """Resolves the stage's `model` unless another stage makes it; what is wrong is added."""
    if "model" in stage.inputs:
        return None
    try:
        source = resolve_model(stage.spec.model, loaded.base_folders)
        findings.digests["model"] = source.digest()
    except UserError as error:
        findings.problems += located(loaded, stage, "model", error)
        return None
    return source
