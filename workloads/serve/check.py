"""Looks at the model and the adapters that a serve stage is given."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.serve import ServeSpec
from workloads.check import Findings, located
from workloads.models.adapter import base_model, check_adapter
from workloads.models.check import check_model, check_weights
from workloads.serve.keys import keys_file, read_digests


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The model must be whole, and every adapter one that vLLM can put on its base model."""
    spec = stage.spec
    assert isinstance(spec, ServeSpec)
    findings = Findings()
    source = check_model(loaded, stage, findings, "model", spec.model)
    if source and source.is_adapter:
        _check_adapter(loaded, stage, findings, "model", Path(source.name))
    for name, reference in spec.adapters.items():
        field = f"adapters.{name}"
        source = check_model(loaded, stage, findings, field, reference)
        if source and not source.is_adapter:
            message = f"{reference!r} is a full model, and not an adapter"
            remedy = "give it as `model`, in a stage of its own"
            findings.problems.append(
                loaded.problem(f"stages.{stage.name}.{field}", message, remedy)
            )
        elif source:
            _check_adapter(loaded, stage, findings, field, Path(source.name))
    if spec.auth and spec.auth.api_keys_file:
        file = keys_file(spec.auth.api_keys_file, loaded.base_folders)
        try:
            read_digests(file)
        except UserError as error:
            findings.problems += located(loaded, stage, "auth.api_keys_file", error)
    return findings


def _check_adapter(
    loaded: LoadedSpec, stage: StagePlan, findings: Findings, field: str, folder: Path
) -> None:
    try:
        check_adapter(folder)
        check_weights(base_model(folder, loaded.base_folders))
    except UserError as error:
        findings.problems += located(loaded, stage, field, error)
