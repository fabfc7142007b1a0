"""The process that runs one reward, one batch at a time."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from jobs.spec.rewards import RewardSpec
from workloads.rewards import RewardFunction, load_reward
from workloads.rewards.samples import Sample, Scores, columns_of
from workloads.user_code import make_importable

_LONGEST_REASON = 500


class RewardActor:
    """A Ray actor with one reward. What the reward raises is an answer, and no error of the actor.

    It computes in its process's main thread, on one event loop for coroutines of all batches.
    """

    def __init__(
        self,
        spec: RewardSpec,
        max_completion_length: int,
        paths: Sequence[str],
        model_folder: str | None,
    ) -> None:
        """`paths` are the folders that the user's module may lie in."""
        self._spec = spec
        self._max_completion_length = max_completion_length
        self._paths = paths
        self._model_folder = model_folder
        self._function: RewardFunction | None = None
        self._runner = asyncio.Runner()

    def load(self) -> str | None:
        """Makes the reward ready. Returns why it can't be, or None."""
        make_importable(self._paths)
        try:
            self._function = load_reward(
                self._spec,
                max_completion_length=self._max_completion_length,
                model_folder=self._model_folder,
            )
        except Exception as error:  # noqa: BLE001 - the user's module may raise anything
            return described(error)
        return None

    def score(self, samples: Sequence[Sample]) -> Scores | str:
        """The samples' scores, or why there are none."""
        assert self._function, "it was loaded"
        began = time.monotonic()
        try:
            found = self._function([s.completion for s in samples], **columns_of(samples))
            if inspect.isawaitable(found):
                found = self._runner.run(_awaited(found))
            return checked(found, len(samples), began)
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything
            return described(error)


async def _awaited(coroutine: Awaitable[Sequence[float | None]]) -> Sequence[float | None]:
    return await coroutine


def checked(found: Any, count: int, began: float) -> Scores:
    """What a reward returned as scores; a value that is no finite number is a failure.

    Raises:
        TypeError: if it is no list.
        ValueError: if it has another length.
    """
    if hasattr(found, "tolist"):  # an array or a tensor
        found = found.tolist()
    if not isinstance(found, list | tuple):
        raise TypeError(f"it returned {_shown(found)}, and not a list of numbers")
    if len(found) != count:
        raise ValueError(f"it returned {len(found)} scores for {count} completions")
    values: list[float | None] = []
    failures: dict[int, str] = {}
    for index, item in enumerate(found):
        value = _number(item)
        if item is not None and value is None:
            failures[index] = f"it returned {_shown(item)}, which is no finite number"
        values.append(value)
    return Scores(values, failures, time.monotonic() - began)


def _number(item: Any) -> float | None:
    if item is None or isinstance(item, str | bytes):
        return None
    try:
        value = float(item)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _shown(item: Any) -> str:
    return f"the {type(item).__name__} {item!r}"[:80]


def described(error: Exception) -> str:
    """An error's type and message, in one line of bounded length."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
