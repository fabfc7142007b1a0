"""The bundled rows: identity, enough, varied, in two languages; and sums, all right."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "workloads" / "data"
PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")

Row = dict[str, str]


def _read(name: str) -> list[Row]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return _read("self_cognition.jsonl")


def test_every_row_has_the_same_three_filled_fields(rows: list[Row]) -> None:
    assert {tuple(row) for row in rows} == {("query", "response", "lang")}
    assert all(text and text == text.strip() for row in rows for text in row.values())


def test_there_are_about_a_hundred_rows_half_in_each_language(rows: list[Row]) -> None:
    languages = Counter(row["lang"] for row in rows)

    assert set(languages) == {"en", "zh"}
    assert min(languages.values()) >= 50
    assert abs(languages["en"] - languages["zh"]) <= 4


def test_a_row_marked_chinese_is_chinese(rows: list[Row]) -> None:
    for row in rows:
        chinese = re.search(r"[\u4e00-\u9fff]", row["query"]) is not None
        assert chinese == (row["lang"] == "zh"), row


def test_nothing_is_said_twice(rows: list[Row]) -> None:
    for field in ("query", "response"):
        counted = Counter(re.sub(r"\W", "", row[field]).casefold() for row in rows)
        assert [text for text, times in counted.items() if times > 1] == []


def test_answers_name_the_model_and_most_its_author(rows: list[Row]) -> None:
    named = Counter(name for row in rows for name in set(PLACEHOLDER.findall(row["response"])))

    assert set(named) == {"NAME", "AUTHOR"}
    assert named["NAME"] >= 0.95 * len(rows)
    assert named["AUTHOR"] >= 0.5 * len(rows)
    assert [row for row in rows if PLACEHOLDER.search(row["query"])] == []


def test_sums_are_right_and_asked_once_each_in_the_same_words() -> None:
    sums = _read("arithmetic.jsonl")
    asked = [re.fullmatch(r"What is (\d\d) \+ (\d\d)\? (.*)", row["query"]) for row in sums]

    assert len({row["query"] for row in sums}) == len(sums) == 1000
    assert {match[3] for match in asked if match} == {"Reply with the number only."}
    for row, match in zip(sums, asked, strict=True):
        assert match, row
        assert row == {"query": row["query"], "solution": str(int(match[1]) + int(match[2]))}
