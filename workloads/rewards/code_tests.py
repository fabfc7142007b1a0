"""`code`: the share of its tests that a completion's program passes, run in a sandbox."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from workloads.rewards.sandbox import Limits, passed_tests, printed_by

_BLOCK = re.compile(r"```([^\n`]*)\n(.*?)```", re.DOTALL)
_PYTHON = frozenset({"python", "python3", "py"})
_COLUMNS = ("tests", "test", "test_list")


def code_tests(
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    *,
    column: str | None = None,
    timeout_s: Annotated[float, Field(gt=0)] = 5.0,
    memory_mib: Annotated[int, Field(ge=64)] = 1024,
) -> list[float | None]:
    """The share of the row's tests that each program passes, from 0 to 1; None without tests.

    The program is the completion's last block of Python, else its last code block, else all of it.
    A row's tests, also when they are written as JSON, are one of:

    - a list of statements, such as `assert add(1, 2) == 3`, run one after the other behind the
      program in one process. One that raises is not passed; one that never ends loses the rest;
    - one script, run likewise. One that only defines `check`, as in HumanEval, is followed by
      `check(f)` for the function f that the column `entry_point` names;
    - a list of `{input, output}`: the program is run on each input, and must end well and print
      the output, apart from white space at the ends of lines and of the whole.

    Args:
        completions: the texts.
        columns: the rows' columns.
        column: the column with the tests; when absent `tests`, `test` or `test_list`.
        timeout_s: seconds that all tests of one completion may take together. A group's completions
            are run in turn, within the `timeout_s` of the reward itself.
        memory_mib: memory that a program may take, in MiB.

    Raises:
        ValueError: if a row's tests are none of these.
    """
    names = [column] if column else _COLUMNS
    scores: list[float | None] = []
    for index, text in enumerate(completions):
        row = {name: values[index] for name, values in columns.items()}
        found = next((row[name] for name in names if row.get(name) is not None), None)
        tests = _tests(found, row)
        limits = Limits(time.monotonic() + timeout_s, memory_mib * 2**20)
        scores.append(_share(program(text), tests, limits) if tests else None)
    return scores


def program(text: str) -> str:
    """The program in a completion."""
    blocks = _BLOCK.findall(text)
    python = [code for language, code in blocks if language.strip().lower() in _PYTHON]
    return str((python or [code for _, code in blocks] or [text])[-1])


def _tests(value: Any, row: Mapping[str, Any]) -> list[Any]:
    """The tests: all statements, or all pairs of input and output."""
    if isinstance(value, str):
        value = _from_json(value) or [_called(value, row)]
    tests = [value] if isinstance(value, Mapping) else list(value or ())
    if all(isinstance(test, str) for test in tests):
        return tests
    if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests):
        return tests
    raise ValueError(
        "the row's tests are neither statements, nor a script, nor pairs of input and output"
    )


def _from_json(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or the object that a text writes as JSON; None where it writes neither."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list | dict) else None


def _called(script: str, row: Mapping[str, Any]) -> str:
    name = row.get("entry_point")
    if name and re.search(r"^def check\(", script, re.MULTILINE):
        return f"{script}\ncheck({name})\n"
    return script


def _share(source: str, tests: Sequence[Any], limits: Limits) -> float:
    if isinstance(tests[0], str):
        return passed_tests(source, tests, limits) / len(tests)
    passed = [
        _lines(printed) == _lines(str(test["output"]))
        for test in tests
        if (printed := printed_by(source, str(test["input"]), limits)) is not None
    ]
    return sum(passed) / len(tests)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
