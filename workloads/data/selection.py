"""Which rows of a source are trained on, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HELD_OUT = -1
"""Marks a row for validation in the array that `select` returns."""


def held_out_rows(sizes: Sequence[int], held_out: float) -> list[int]:
    """How many rows each source gives to validation, of `sizes` rows.

    A share is taken of each source, at least one row; a number is spread over the sources by size.
    """
    if held_out < 1:
        return [max(int(size * held_out + 1e-9), 1) if held_out else 0 for size in sizes]
    total, left, counts = sum(sizes), int(held_out), []
    for size in sizes:
        counts.append(round(left * size / max(total, 1)))
        total, left = total - size, left - counts[-1]
    return counts


def select(rows: int, wanted: int, validation: int, seed: Sequence[int] | None) -> np.ndarray:
    """How often each row is trained on; `HELD_OUT` for those in validation. (rows,) int32.

    `validation` rows are held out and the others repeated or left out so that `wanted` rows are
    used in all: where more are asked for than there are, in whole copies and a random rest. No copy
    of a held-out row is trained on. Rows are chosen at random, or in order where `seed` is None.
    """
    order = np.arange(rows) if seed is None else np.random.default_rng(seed).permutation(rows)
    repeats = np.zeros(rows, dtype=np.int32)
    repeats[order[:validation]] = HELD_OUT
    pool = order[validation:]
    if len(pool):
        copies, rest = divmod(max(wanted - validation, 0), len(pool))
        repeats[pool] = copies
        repeats[pool[:rest]] += 1
    return repeats
