"""What a reward is given, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.data.rows import Message


@dataclass(frozen=True)
class Sample:
    """One completion, with all that a reward may want to know of it."""

    uid: str
    prompt: list[Message]
    completion: str
    completion_ids: list[int]
    """(T,) the completion's tokens."""
    truncated: bool
    """Whether it was cut off at its greatest length."""
    columns: Mapping[str, Any]
    """The columns of the dataset's row. `solution` is the right answer, where there is one."""


@dataclass(frozen=True)
class Scores:
    """What one reward says of some completions."""

    values: list[float | None]
    """One finite number to each completion; None where the reward has nothing to say, or failed."""
    failures: dict[int, str]
    """Why scoring failed, by the completion's index."""
    seconds: float
    """How long it took, the wait for a free worker included."""


def columns_of(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The samples as columns, a value to each sample; None where a row lacks the column.

    `prompts`, `completion_ids` and `truncated` are ours: a dataset's columns of the same names,
    and of the name `completions`, are left out. `solution` is always there.
    """
    names = {name for sample in samples for name in sample.columns} | {"solution"}
    columns = {name: [sample.columns.get(name) for sample in samples] for name in sorted(names)}
    columns.pop("completions", None)
    return columns | {
        "prompts": [sample.prompt for sample in samples],
        "completion_ids": [sample.completion_ids for sample in samples],
        "truncated": [sample.truncated for sample in samples],
    }
