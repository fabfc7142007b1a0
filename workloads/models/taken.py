"""The models that a stage takes: another stage's, or those that its spec names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.models.local import localize
from workloads.models.resolve import ModelSource, resolve_model

if TYPE_CHECKING:
    from jobs.spec.rewards import RewardSpec
    from workloads.context import StageContext


def taken_model(context: StageContext, field: str, reference: str) -> ModelSource:
    """What a field of the stage stands for: the artifact of an earlier stage, or what it names.

    Raises:
        UserError: if there is no such model.
    """
    return model_of(context.inputs, field, reference, context.base_folders)


def model_of(
    made: Mapping[str, Path], field: str, reference: str, base_folders: Sequence[str]
) -> ModelSource:
    """The artifact that was made for a field, or else what the reference in it stands for.

    Raises:
        UserError: if there is no such model.
    """
    if folder := made.get(field):
        return ModelSource("folder", str(folder))
    return resolve_model(reference, base_folders)


def model_folder(source: ModelSource, hub_token: str | None) -> str:
    """The model's folder on this machine. In a task, so that libraries are not imported here."""
    if source.kind == "folder":
        return source.name
    return _fetched(source, hub_token)


@cache
def _fetched(source: ModelSource, hub_token: str | None) -> str:
    import ray

    # A trial of a sweep has no cores in its own place, where its tasks would go by themselves.
    task = ray.remote(localize).options(scheduling_strategy="DEFAULT")
    folder: str = ray.get(task.remote(source, hub_token))
    return folder


def reward_models(
    context: StageContext, rewards: Sequence[RewardSpec], hub_token: str | None
) -> dict[str, str]:
    """Folders of the reward models, by the reward's label."""
    return {
        reward.label: model_folder(
            taken_model(context, f"rewards[{index}].model", reward.model), hub_token
        )
        for index, reward in enumerate(rewards)
        if reward.model
    }
