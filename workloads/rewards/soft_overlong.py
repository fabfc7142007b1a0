"""`soft_overlong`: a penalty that grows over the last tokens before the limit, from DAPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from jobs.errors import UserError


def soft_overlong(
    completions: Sequence[str],  # noqa: ARG001 - every reward is given them
    completion_ids: Sequence[Sequence[int]],
    *,
    max_completion_length: int,
    max_length: Annotated[int, Field(ge=1)] | None = None,
    cache_length: Annotated[int, Field(ge=1)] | None = None,
) -> list[float]:
    """`min(0, (max_length - cache_length - t) / cache_length)` for t tokens, and never below -1.

    Equation 13 of the DAPO paper (arXiv 2503.14476).

    Args:
        completions: the texts, which are not read.
        completion_ids: their tokens.
        max_completion_length: the most tokens that are generated.
        max_length: the tokens from which on the penalty is -1; `max_completion_length` when absent.
        cache_length: over how many tokens before that it grows; a fifth of `max_length` when
            absent, as in the paper.

    Raises:
        UserError: if the penalty would begin before the first token.
    """
    limit = max_length or max_completion_length
    cache = cache_length or max(limit // 5, 1)
    if cache >= limit:
        raise UserError(
            f"reward 'soft_overlong': cache_length {cache} is not below max_length {limit}",
            "lower cache_length; a fifth of max_length is usual",
        )
    return [max(min((limit - cache - len(ids)) / cache, 0.0), -1.0) for ids in completion_ids]
