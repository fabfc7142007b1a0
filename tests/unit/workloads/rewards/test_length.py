"""The range of lengths that scores 1, and the slopes at its sides."""

import pytest

from jobs.errors import UserError
from workloads.rewards.length import length


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0), (10, 0.5), (20, 1), (30, 1), (40, 1), (70, 0.5), (100, 0), (130, 0)],
)
def test_a_range_with_slopes(tokens: int, expected: float) -> None:
    ids = [[0] * tokens]
    found = length(["text"], ids, max_completion_length=100, min_length=20, max_length=40)
    assert found == pytest.approx([expected])


def test_a_range_up_to_the_limit() -> None:
    ids = [[0] * 50, [0] * 100, [0] * 101]
    found = length(["text"] * 3, ids, max_completion_length=100, min_length=50)
    assert found == [1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "would be 1 for every completion"),
        ({"min_length": 50, "max_length": 40}, "min_length 50, max_length 40"),
        ({"max_length": 101}, "max_completion_length 100 are not in this order"),
    ],
)
def test_ranges_that_make_no_sense(settings: dict[str, int], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        length([], [], max_completion_length=100, **settings)
