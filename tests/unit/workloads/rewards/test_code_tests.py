"""Programs in completions, and the share of their tests that they pass."""

import json
import time
from typing import Any

import pytest

from workloads.rewards.code_tests import code_tests
from workloads.rewards.code_tests import program as program_in

ADD = "def add(a, b):\n    return a + b\n"
ASSERTS = ["assert add(1, 2) == 3", "assert add(1, 1) == 3", "assert add(0, 0) == 0"]
HUMAN_EVAL = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
PAIRS = [{"input": "1 2\n", "output": "3\n"}, {"input": "2 2", "output": "5"}]
SUM = "print(sum(map(int, input().split())))  \n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\nor\n```py\nx = 2\n```\nand\n```\nx = 3\n```", "x = 2\n"),
        ("So:\n```\nx = 1\n```\nnot\n```\nx = 2\n```\n", "x = 2\n"),
        ("```Python\nx = 1\n```", "x = 1\n"),
    ],
)
def test_the_program_of_a_completion(text: str, expected: str) -> None:
    assert program_in(text) == expected


@pytest.mark.parametrize(
    ("columns", "text", "score"),
    [
        ({"tests": ASSERTS}, ADD, 2 / 3),
        ({"test_list": json.dumps(ASSERTS)}, f"```python\n{ADD}```", 2 / 3),
        ({"test": "assert add(1, 2) == 3\nassert add(0, 0) == 0"}, ADD, 1),
        ({"test": "assert add(1, 2) == 3\nassert add(0, 0) == 1"}, ADD, 0),
        ({"test": HUMAN_EVAL, "entry_point": "add"}, ADD, 1),
        ({"test": HUMAN_EVAL, "entry_point": "add"}, ADD.replace("+", "-"), 0),
        ({"tests": PAIRS}, SUM, 1 / 2),
        ({"tests": PAIRS[0]}, SUM, 1),
        ({"tests": json.dumps(PAIRS)}, f"import sys\n{SUM}sys.exit(1)", 0),
        ({"tests": ASSERTS}, "no program at all", 0),
        ({"tests": ASSERTS}, f"{ADD}raise ValueError", 0),
        ({"tests": []}, ADD, None),
        ({"tests": None}, ADD, None),
        ({}, ADD, None),
    ],
)
def test_a_share_of_tests(columns: dict[str, Any], text: str, score: float | None) -> None:
    found = code_tests([text], {name: [value] for name, value in columns.items()})
    assert found == [pytest.approx(score)] if score is not None else found == [None]


def test_rows_have_tests_of_their_own() -> None:
    columns: dict[str, list[Any]] = {
        "checks": [ASSERTS[:1], None, ASSERTS[1:2]],
        "tests": [ASSERTS] * 3,
    }
    assert code_tests([ADD] * 3, columns, column="checks") == [1, None, 0]


def test_a_test_that_never_ends_loses_the_rest_only() -> None:
    tests = [ASSERTS[0], "while True: pass", ASSERTS[2]]
    assert code_tests([ADD], {"tests": [tests]}, timeout_s=0.7) == [pytest.approx(1 / 3)]


def test_all_tests_share_the_time() -> None:
    began = time.monotonic()
    found = code_tests(["while True: pass"], {"tests": [PAIRS * 20]}, timeout_s=0.5)
    assert found == [0]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("tests", [[1], [{"input": "1"}], ["assert True", {"a": 1}]])
def test_other_tests_are_refused(tests: list[Any]) -> None:
    with pytest.raises(ValueError, match="neither statements, nor a script, nor pairs"):
        code_tests([ADD], {"tests": [tests]})


@pytest.mark.parametrize("ending", ["__import__('os')._exit(0)", "raise SystemExit(0)", "exit()"])
@pytest.mark.parametrize("program", ["{ending}", "def add(a, b):\n    {ending}\n"])
def test_a_program_that_ends_early_has_passed_nothing(ending: str, program: str) -> None:
    assert code_tests([program.format(ending=ending)], {"tests": [ASSERTS]}) == [0]
