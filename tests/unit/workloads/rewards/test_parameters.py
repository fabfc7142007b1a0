"""What a reward's function is given."""

from collections.abc import Callable
from typing import Any

import pytest

from workloads.rewards.parameters import bind

COLUMNS = {"prompts": ["p"], "solution": ["s"], "level": [3]}


def named(completions: list[str], solution: list[str], **_: Any) -> Any:
    return completions, solution


def everything(completions: list[str], **columns: Any) -> Any:
    return completions, columns


def some(prompts: list[str], completions: list[str], level: list[int]) -> Any:
    return completions, prompts, level


def another_name(texts: list[str], solution: list[str]) -> Any:
    return texts, solution


def with_setting(completions: list[str], *, level: int = 7) -> Any:
    return completions, level


def as_mapping(completions: list[str], columns: dict[str, Any], *, level: int = 7) -> Any:
    return completions, columns, level


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        (named, {}, (["c"], ["s"])),
        (everything, {}, (["c"], COLUMNS)),
        (everything, {"level": 5}, (["c"], {**COLUMNS, "level": 5})),
        (everything, {"extra": 5}, (["c"], {**COLUMNS, "extra": 5})),
        (some, {}, (["c"], ["p"], [3])),
        (another_name, {}, (["c"], ["s"])),
        (with_setting, {}, (["c"], 7)),
        (with_setting, {"level": 5}, (["c"], 5)),
        (as_mapping, {}, (["c"], COLUMNS, 7)),
    ],
)
def test_a_function_is_given_what_it_names(
    function: Callable[..., Any], params: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert bind(function, params, {"max_completion_length": 9})(["c"], **COLUMNS) == expected


def test_what_we_supply_is_given_where_it_is_named() -> None:
    def limited(completions: list[str], *, max_completion_length: int) -> Any:
        return completions, max_completion_length

    assert bind(limited, {}, {"max_completion_length": 9})(["c"], **COLUMNS) == (["c"], 9)
