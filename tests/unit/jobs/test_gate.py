"""Bounds on metrics."""

from __future__ import annotations

import math

import pytest

from jobs.spec.gate import Bound


@pytest.mark.parametrize(
    ("text", "kept", "broken"),
    [
        (">= 0.6", 0.6, 0.59),
        (">0.6", 0.61, 0.6),
        ("<= 12", 12.0, 12.1),
        ("< -1e-3", -0.01, -0.001),
        (" == .5 ", 0.5, 0.51),
    ],
)
def test_a_bound_is_kept_or_not(text: str, kept: float, broken: float) -> None:
    bound = Bound.parse(text)
    assert bound.holds(kept)
    assert not bound.holds(broken)
    assert not bound.holds(math.nan)


@pytest.mark.parametrize("text", ["0.6", "=> 0.6", ">= high", ">=", ">= 0.6 0.7", "!= 1", ">= nan"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'such as ">= 0\.6"'):
        Bound.parse(text)


def test_a_bound_reads_as_it_was_meant() -> None:
    assert str(Bound.parse(">=0.60")) == ">= 0.6"
