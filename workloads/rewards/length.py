"""`length`: whether a completion's length is in a range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from jobs.errors import UserError


def length(
    completions: Sequence[str],  # noqa: ARG001 - every reward is given them
    completion_ids: Sequence[Sequence[int]],
    *,
    max_completion_length: int,
    min_length: Annotated[int, Field(ge=0)] = 0,
    max_length: Annotated[int, Field(ge=1)] | None = None,
) -> list[float]:
    """1 from `min_length` to `max_length` tokens. Below, it rises from 0 at no token; above, it
    falls to 0 at `max_completion_length`; both in a straight line.

    Args:
        completions: the texts, which are not read.
        completion_ids: their tokens.
        max_completion_length: the most tokens that are generated.
        min_length: the fewest tokens that score 1.
        max_length: the most tokens that score 1; `max_completion_length` when absent.

    Raises:
        UserError: if every length would score the same, or none could score 1.
    """
    top = max_completion_length if max_length is None else max_length
    if not min_length <= top <= max_completion_length:
        raise UserError(
            f"reward 'length': min_length {min_length}, max_length {top} and max_completion_length "
            f"{max_completion_length} are not in this order",
            "let each be at most the next",
        )
    if not min_length and max_length is None:
        raise UserError(
            "reward 'length' would be 1 for every completion", "give it min_length or max_length"
        )
    return [_score(len(ids), min_length, top, max_completion_length) for ids in completion_ids]


def _score(tokens: int, least: int, top: int, limit: int) -> float:
    if tokens < least:
        return tokens / least
    if tokens > top:
        return max((limit - tokens) / (limit - top), 0.0) if limit > top else 0.0
    return 1.0
