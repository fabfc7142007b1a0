"""The penalty for saying the same words again."""

import pytest

from workloads.rewards.repetition import repetition


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0),
        ("one two", 0),
        ("one two three", 0),
        ("one two three four five six", 0),
        ("a b c a b c", -(1 - 3 / 4)),
        ("A b\nc  a B c", -(1 - 3 / 4)),
        ("no " * 102, -(1 - 1 / 100)),
    ],
)
def test_a_share_of_runs_that_were_said_before(text: str, score: float) -> None:
    assert repetition([text]) == pytest.approx([score])


def test_its_settings() -> None:
    assert repetition(["a a a"], n_grams=1, max_penalty=-3) == pytest.approx([-2])
    assert repetition(["a a a"], n_grams=2) == pytest.approx([-0.5])
