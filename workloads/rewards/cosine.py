"""`cosine`: right answers score more when short, wrong ones when long (arXiv 2502.03373)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from workloads.rewards.accuracy import accuracy


def cosine(
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    solution: Sequence[str | None],
    *,
    max_completion_length: int,
    max_len: Annotated[int, Field(ge=1)] | None = None,
    min_len_value_correct: float = 1.0,
    max_len_value_correct: float = 0.5,
    min_len_value_wrong: float = -0.5,
    max_len_value_wrong: float = 0.0,
) -> list[float | None]:
    """`b + (a - b) * (1 + cos(pi * t / T)) / 2`, which goes from a at no token to b at T.

    t is the completion's number of tokens, and T is `max_len`; a longer completion scores as one
    of T tokens does. a and b are the `min_len_value` and `max_len_value`, of right or wrong answers
    as the reward `accuracy` tells them. The defaults are ms-swift's. None where the row has no
    solution.

    Args:
        completions: the texts.
        completion_ids: their tokens.
        solution: the right answers.
        max_completion_length: the most tokens that are generated.
        max_len: T; `max_completion_length` when absent.
        min_len_value_correct: what a right answer of no token would score.
        max_len_value_correct: what a right answer of T tokens scores.
        min_len_value_wrong: what a wrong answer of no token would score.
        max_len_value_wrong: what a wrong answer of T tokens scores.
    """
    longest = max_len or max_completion_length
    correct = (min_len_value_correct, max_len_value_correct)
    wrong = (min_len_value_wrong, max_len_value_wrong)
    judged = accuracy(completions, solution)
    return [
        None if right is None else _curve(*(correct if right else wrong), len(ids) / longest)
        for right, ids in zip(judged, completion_ids, strict=True)
    ]


def _curve(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
