"""Rewards: what scores completions. A new built-in is a module with a function, and a line here.

A built-in takes the columns that it reads as plain parameters, and its settings as keyword-only
parameters with defaults and types, which `RewardSpec.params` is checked against. It has nothing to
say (None) of a row that lacks what it compares with.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from jobs.spec.rewards import RewardSpec
from workloads import load_function
from workloads.rewards.parameters import bind, check_parameters
from workloads.rewards.samples import columns_of
from workloads.rewards.user_function import find_function, import_function

REWARDS = {
    "accuracy": "workloads.rewards.accuracy:accuracy",
    "format": "workloads.rewards.tag_format:tag_format",
    "cosine": "workloads.rewards.cosine:cosine",
    "repetition": "workloads.rewards.repetition:repetition",
    "soft_overlong": "workloads.rewards.soft_overlong:soft_overlong",
    "length": "workloads.rewards.length:length",
    "json_schema": "workloads.rewards.json_schema:json_schema",
    "code": "workloads.rewards.code_tests:code_tests",
}
"""The built-in rewards."""

_MODEL = "workloads.rewards.model:model_scores"


class RewardFunction(Protocol):
    """Scores completions."""

    def __call__(
        self, completions: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float | None] | Awaitable[Sequence[float | None]]:
        """A number to each completion, None where there is nothing to say; or a coroutine of it.

        Args:
            completions: the texts.
            columns: a value to each completion: `prompts` (lists of messages), `completion_ids`
                (lists of tokens), `truncated`, and the columns of the dataset's rows, of which
                `solution` is always there.
        """


def load_reward(
    spec: RewardSpec, *, max_completion_length: int, model_folder: str | None = None
) -> RewardFunction:
    """The reward, with its settings bound. Runs the user's module, or loads the model.

    Args:
        spec: which reward.
        max_completion_length: the most tokens of a completion.
        model_folder: the folder of the reward model, where the reward is one.

    Raises:
        UserError: if a built-in's settings or the model can't be used.
        Exception: whatever the user's module raises when it is imported.
    """
    supplied: dict[str, Any] = {"max_completion_length": max_completion_length}
    if spec.import_path:
        return bind(import_function(spec.import_path), spec.params, supplied)
    function = _built_in(spec)
    check_parameters(spec.label, function, spec.params)
    if spec.model:
        from workloads.rewards.model import load_classifier

        assert model_folder, "a reward model has a folder"
        supplied["classifier"] = load_classifier(model_folder, spec.gpus_per_worker)
    return bind(function, spec.params, supplied)


def check_reward(
    spec: RewardSpec,
    paths: Sequence[str] = (),
    max_completion_length: int = sys.maxsize,
) -> None:
    """Checks a reward as far as that is quick: its settings, and that the user's function exists.

    Imports neither Ray nor torch, and runs none of the user's code.

    Args:
        spec: which reward.
        paths: folders that the user's module may lie in, besides Python's own.
        max_completion_length: the most tokens of a completion, where it is known.

    Raises:
        UserError: if the reward can't work as it is.
    """
    if spec.import_path:
        find_function(spec.import_path, paths, spec.params)
        return
    check_parameters(spec.label, _built_in(spec), spec.params)
    if spec.name:
        try:
            # Settings that don't go together are found by the reward itself, before it scores.
            load_reward(spec, max_completion_length=max_completion_length)([], **columns_of([]))
        except ModuleNotFoundError:
            return  # it comes with the libraries that train


def _built_in(spec: RewardSpec) -> Callable[..., Any]:
    function: Callable[..., Any] = load_function(REWARDS[spec.name] if spec.name else _MODEL)
    return function
