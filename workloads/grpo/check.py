"""Looks at the model, the prompts, the rewards and the environment of a GRPO stage."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.spec.grpo import GrpoSpec
from workloads.check import Findings, located
from workloads.data.check import check_dataset
from workloads.environments import check_environment
from workloads.models.check import check_context
from workloads.rewards.check import Prompts, add_digest, check_rewards
from workloads.train.check import check_trained_model


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The model must be as for training, prompts usable, and every reward able to score them."""
    spec = stage.spec
    assert isinstance(spec, GrpoSpec)
    findings, prompts = Findings(), Prompts()
    source = check_trained_model(loaded, stage, spec, findings)
    if source and source.kind == "folder" and not findings.problems:
        remedy = "lower dataset.max_length or rollout.max_completion_length"
        wanted = spec.rollout.max_model_len or 0
        check_context(loaded, stage, Path(source.name), wanted, findings, remedy)
    check_dataset(loaded, stage.name, spec.dataset, findings, prompts.messages)
    length = spec.rollout.max_completion_length
    check_rewards(loaded, stage, spec.rewards, length, prompts, findings)
    _check_environment(loaded, stage, spec, findings)
    return findings


def _check_environment(
    loaded: LoadedSpec, stage: StagePlan, spec: GrpoSpec, findings: Findings
) -> None:
    environment = spec.environment
    if not environment:
        return
    field = f"environment.{'import_path' if environment.import_path else 'params'}"
    try:
        check_environment(environment, loaded.base_folders)
        if environment.import_path:
            add_digest(findings, field, environment.import_path, loaded.base_folders)
    except UserError as error:
        findings.problems += located(loaded, stage, field, error)
