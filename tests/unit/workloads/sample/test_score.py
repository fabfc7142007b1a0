"""Scores of answers: kept by chunks, and rows are exactly the answers that are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.spec.rewards import RewardSpec
from jobs.spec.sample import SampleSpec
from workloads.data.prompts import Prompt
from workloads.generate import answers as answers_module
from workloads.generate.answers import Answer, Completion
from workloads.rewards import load_reward
from workloads.rewards.samples import Sample, Scores, columns_of
from workloads.sample import score as score_module
from workloads.sample.dataset import Outcome, rows_of, write_rows
from workloads.sample.score import read_scores, score


class PoolHere:
    """A reward pool that scores in this process."""

    calls = 0

    def __init__(self, spec: RewardSpec, *, max_completion_length: int, **_more: Any) -> None:
        self._reward = load_reward(spec, max_completion_length=max_completion_length)

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """The built-in's scores; a text that says so fails."""
        PoolHere.calls += 1
        failures = {i: "ValueError: bad" for i, s in enumerate(samples) if "FAIL" in s.completion}
        values: Any = self._reward([s.completion for s in samples], **columns_of(samples))
        return Scores([None if i in failures else v for i, v in enumerate(values)], failures, 0.1)

    async def close(self) -> None:
        """Does nothing."""


class Rows:
    """What a model answered to sums: to each, one right answer, one wrong, and one that fails."""

    def __init__(self, count: int) -> None:
        self.prepared = self
        self.rows = count

    def __iter__(self) -> Any:
        for row in range(self.rows):
            asked: Any = [{"role": "user", "content": f"{row} + {row}?"}]
            texts = [f"It is {2 * row}.", f"It is {2 * row + 1}.", "FAIL"]
            completions = [Completion(text, [1], "stop") for text in texts]
            yield Prompt(row, [1], asked, {"solution": str(2 * row)}), Answer(row, completions)


def test_rows_are_exactly_the_answers_that_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_module, "RewardPool", PoolHere)
    monkeypatch.setattr(answers_module, "ROWS_PER_CHUNK", 4)
    spec = SampleSpec.model_validate(
        {
            "kind": "sample",
            "model": "m",
            "dataset": {"prompts": ["p.jsonl"]},
            "n": 3,
            "rewards": [{"name": "accuracy"}],
            "keep": {"min_reward": 1.0},
        }
    )
    answers: Any = Rows(10)
    told: list[int] = []
    score(answers, spec, tmp_path / "scores", (), {}, told.append)
    assert told == [4, 8, 10]
    assert PoolHere.calls == 10

    # What is scored is not scored again; a chunk that is missing is.
    (tmp_path / "scores" / "chunk-0000001.jsonl").unlink()
    score(answers, spec, tmp_path / "scores", (), {}, told.append)
    assert PoolHere.calls == 14

    outcome = Outcome()
    scores = read_scores(tmp_path / "scores", 10)
    triples = ((*row, each) for row, each in zip(answers, scores, strict=True))
    write_rows(rows_of(triples, spec, "m", outcome), tmp_path, "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == [
        f"It is {2 * row}." for row in range(10)
    ]
    assert {row["reward"] for row in rows} == {1.0}
    assert (outcome.rows, outcome.answers, outcome.unscored) == (10, 30, 10)
    assert outcome.failures == {"accuracy: ValueError: bad": 10}
    assert outcome.reward == 0.5
