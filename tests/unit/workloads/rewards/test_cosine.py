"""The cosine of a completion's length, for right and for wrong answers."""

import math
from typing import Any

import pytest

from workloads.rewards.cosine import cosine


def scores(tokens: int, **settings: Any) -> list[float | None]:
    """What a right and a wrong answer of so many tokens score, of 100 at most."""
    ids = [[0] * tokens] * 2
    return cosine(["72", "71"], ids, ["72"] * 2, max_completion_length=100, **settings)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, [1.0, -0.5]),
        (50, [0.75, -0.25]),
        (100, [0.5, 0.0]),
        (150, [0.5, 0.0]),  # longer than the longest: as the longest, not back up the curve
    ],
)
def test_right_answers_had_better_be_short_and_wrong_ones_long(
    tokens: int, expected: list[float]
) -> None:
    assert scores(tokens) == pytest.approx(expected)


def test_it_is_a_cosine_in_between() -> None:
    right, wrong = scores(25)
    assert right == pytest.approx(1 - 0.5 * (1 - math.cos(math.pi / 4)) / 2)
    assert wrong == pytest.approx(-0.5 + 0.5 * (1 - math.cos(math.pi / 4)) / 2)


def test_all_ends_can_be_set() -> None:
    ends = {
        "min_len_value_correct": 4.0,
        "max_len_value_correct": 3.0,
        "min_len_value_wrong": 2.0,
        "max_len_value_wrong": 1.0,
    }
    assert scores(0, **ends) == pytest.approx([4, 2])
    assert scores(100, **ends) == pytest.approx([3, 1])


def test_the_longest_length_can_be_set() -> None:
    found = cosine(["72"], [[0] * 10], ["72"], max_completion_length=100, max_len=10)
    assert found == pytest.approx([0.5])


def test_a_row_without_a_solution_is_not_judged() -> None:
    assert cosine(["72"], [[0]], [None], max_completion_length=100) == [None]
