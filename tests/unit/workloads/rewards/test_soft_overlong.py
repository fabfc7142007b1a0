"""The penalty that grows towards the limit."""

import pytest

from jobs.errors import UserError
from workloads.rewards.soft_overlong import soft_overlong


def score(tokens: int, **settings: int) -> float:
    (found,) = soft_overlong(["text"], [[0] * tokens], max_completion_length=100, **settings)
    return found


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0), (80, 0), (81, -0.05), (90, -0.5), (100, -1), (250, -1)]
)
def test_it_grows_over_the_last_fifth_and_no_further(tokens: int, expected: float) -> None:
    assert score(tokens) == pytest.approx(expected)


def test_its_settings() -> None:
    assert score(70, cache_length=50) == pytest.approx(-0.4)
    assert score(45, max_length=50, cache_length=10) == pytest.approx(-0.5)
    assert score(60, max_length=50, cache_length=10) == -1


def test_it_must_not_begin_before_the_first_token() -> None:
    with pytest.raises(UserError, match="cache_length 100 is not below max_length 100"):
        score(1, cache_length=100)
