"""Which answers become rows, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.spec.sample import KeepSpec, SampleSpec
from workloads.data.prompts import Prompt
from workloads.generate.answers import Answer, Completion
from workloads.sample.dataset import ROWS_FILE, Outcome, rows_of, write_rows
from workloads.sample.keep import Scored, kept, total


def scored(text: str, reward: float | None, truncated: bool = False) -> Scored:
    """An answer with a reward."""
    return Scored(text, truncated, {"accuracy": reward}, reward)


ANSWERS = [
    scored("bad", 0.0),
    scored("good", 1.0),
    scored("better", 2.0),
    scored("good", 1.0),
    scored("cut", 3.0, truncated=True),
    scored("unknown", None),
    scored("  ", 5.0),
]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({}, ["better", "good", "bad"]),
        ({"best": 1}, ["better"]),
        ({"min_reward": 1.0}, ["better", "good"]),
        ({"min_reward": 1.0, "unique": False}, ["better", "good", "good"]),
        ({"best": 2, "truncated": True}, ["cut", "better"]),
        ({"min_reward": 9.0}, []),
    ],
)
def test_answers_are_kept_by_their_reward(keep: dict[str, Any], expected: list[str]) -> None:
    found = kept(ANSWERS, KeepSpec.model_validate(keep), is_scored=True)
    assert [answer.text for answer in found] == expected


def test_without_rewards_answers_are_kept_as_they_came() -> None:
    answers = [Scored(text, False, {}, None) for text in ("b", "a", "b", "")]
    assert [each.text for each in kept(answers, KeepSpec(), is_scored=False)] == ["b", "a"]


def test_the_total_is_weighted_over_what_is_said() -> None:
    weights = {"a": 1.0, "b": 0.5}
    assert total({"a": 1.0, "b": 2.0}, weights) == 2.0
    assert total({"a": None, "b": 2.0}, weights) == 1.0
    assert total({"a": None, "b": None}, weights) is None


def spec(**fields: Any) -> SampleSpec:
    """A sample stage."""
    base = {"kind": "sample", "model": "m", "dataset": {"prompts": ["p.jsonl"]}, "n": 7}
    return SampleSpec.model_validate(base | {"rewards": [{"name": "accuracy"}]} | fields)


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_rows_are_written_and_counted(tmp_path: Path, file_format: str) -> None:
    prompts = [
        Prompt(row, [1], [{"role": "user", "content": f"Q{row} é"}], {"solution": solution})
        for row, solution in enumerate(["42", None])
    ]
    answers = [Answer(0, [Completion("", [1], "stop")]), Answer(1, [], refusal="too long")]
    outcome = Outcome()
    job = spec(keep={"min_reward": 1.0}, file_format=file_format)
    triples = zip(prompts, answers, [ANSWERS, []], strict=True)
    write_rows(rows_of(triples, job, "model x", outcome), tmp_path, file_format)
    file = tmp_path / ROWS_FILE[file_format]
    if file_format == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(file).to_pylist()
        assert json.loads(rows[0]["rewards"]) == {"accuracy": 2.0}
    assert [(row["messages"][-1]["content"], row["reward"]) for row in rows] == [
        ("better", 2.0),
        ("good", 1.0),
    ]
    first = rows[0]
    assert first["messages"][0] == {"role": "user", "content": "Q0 é"}
    assert (first["model"], first["prompt"], first["solution"]) == ("model x", 0, "42")
    assert (outcome.prompts, outcome.answers, outcome.rows) == (2, 7, 2)
    assert (outcome.prompts_without_rows, outcome.refused, outcome.truncated) == (1, 1, 1)
    assert outcome.best_reward == 5.0
    assert outcome.kept_reward == 1.5
    assert next(outcome.lines()) == (
        "2 rows kept of 7 answers to 2 prompts; 1 prompts (50%) have none"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rewards": [], "keep": {"best": 1}}, "goes by rewards, and there are none"),
        ({"generation": {"temperature": 0}}, "answers at temperature 0 are all the same"),
        ({"keep": {"best": 8}}, "keep.best is 8, and there are 7 answers"),
        ({"rewards": [{"name": "accuracy"}] * 2}, "two rewards are called 'accuracy'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**fields)
