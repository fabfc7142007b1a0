"""`repetition`: a penalty for saying the same words again, as in ms-swift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field


def repetition(
    completions: Sequence[str],
    *,
    n_grams: Annotated[int, Field(ge=1)] = 3,
    max_penalty: Annotated[float, Field(le=0)] = -1.0,
) -> list[float]:
    """`(1 - distinct / all) * max_penalty` over the runs of `n_grams` words of a completion.

    Words are what lies between white space, in lower case. A completion of fewer words scores 0,
    so texts without spaces, such as Chinese, are not judged.

    Args:
        completions: the texts.
        n_grams: words in a run.
        max_penalty: what a completion would score that says a single run over and over.
    """
    return [_penalty(text.lower().split(), n_grams, max_penalty) for text in completions]


def _penalty(words: list[str], n_grams: int, max_penalty: float) -> float:
    runs = [tuple(words[i : i + n_grams]) for i in range(len(words) - n_grams + 1)]
    return (1 - len(set(runs)) / len(runs)) * max_penalty if runs else 0.0
