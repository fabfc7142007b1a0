"""Samples as the columns that rewards are given."""

from typing import Any

from workloads.data.rows import Message
from workloads.rewards.samples import Sample, columns_of

PROMPT: list[Message] = [{"role": "user", "content": "2+2?"}]


def sample(**columns: Any) -> Sample:
    return Sample("1", PROMPT, "4", [7, 8], True, columns)


def test_columns_hold_a_value_to_each_sample() -> None:
    assert columns_of([sample(solution="4", level=1), sample(level=2, tag="b")]) == {
        "prompts": [PROMPT, PROMPT],
        "completion_ids": [[7, 8], [7, 8]],
        "truncated": [True, True],
        "solution": ["4", None],
        "level": [1, 2],
        "tag": [None, "b"],
    }


def test_our_columns_win_over_the_datasets() -> None:
    columns = columns_of([sample(prompts="x", truncated="x", completions="x")])
    assert columns["prompts"] == [PROMPT]
    assert columns["truncated"] == [True]
    assert "completions" not in columns
