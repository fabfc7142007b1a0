"""Layouts that are asked for, and those that are not."""

import pytest

from jobs.errors import UserError
from workloads.rewards.tag_format import tag_format


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a\nb</think>\n<answer>c\nd</answer>", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer> c", 0),
        ("<think>a</think><answer>b</answer>\n", 0),
        ("well <think>a</think><answer>b</answer>", 0),
        ("<answer>b</answer>", 0),
        ("<think>a</think>", 0),
        ("", 0),
    ],
)
def test_a_thought_and_an_answer_and_nothing_else(text: str, score: float) -> None:
    assert tag_format([text]) == [score]


def test_a_pattern_of_ones_own() -> None:
    pattern = r".*</think>\s*\d+"
    assert tag_format(["a\nb</think>\n42", "42", "a</think> x"], pattern=pattern) == [1, 0, 0]


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        tag_format([], pattern="(")
