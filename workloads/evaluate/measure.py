"""From a model's answers to numbers: one pass over the rows, which are written down as it goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.rewards import RewardSpec
from workloads.data.prompts import Prompt
from workloads.evaluate.metrics import Measured, Metric, Row, Settings, load_metric
from workloads.generate.answers import Answer
from workloads.rewards.pool import RewardPool
from workloads.rewards.samples import Sample

_ROWS_AT_ONCE = 256
_GROUP = 8
"""Rows that one process compares in a call: one that takes forever costs its group alone."""
_COMPARISON = RewardSpec(name="accuracy", workers=2)

Pair = tuple[Prompt, Answer]


def measure(spec: EvaluateSpec, answers: Iterator[Pair], predictions: Path) -> Measured:
    """All numbers of one model. Writes each row with its own to `predictions`, as JSON lines."""
    settings = Settings(spec.level, spec.labels)
    metrics: dict[str, Metric] = {name: load_metric(name, settings) for name in spec.metrics}
    with predictions.open("w", encoding="utf-8", errors="backslashreplace") as file:
        asyncio.run(_measure(answers, metrics, file))
    found = [metric.measured() for metric in metrics.values()]
    return Measured(
        {name: value for each in found for name, value in each.values.items()},
        {name: value for each in found for name, value in each.details.items()},
    )


async def _measure(answers: Iterator[Pair], metrics: Mapping[str, Metric], file: TextIO) -> None:
    pool = RewardPool(_COMPARISON, max_completion_length=1, paths=())
    try:
        while batch := list(islice(answers, _ROWS_AT_ONCE)):
            right: Sequence[float | None] = [None] * len(batch)
            if "accuracy" in metrics:
                right = await _compared(pool, batch)
            for (prompt, answer), is_right in zip(batch, right, strict=True):
                row = row_of(prompt, answer, is_right)
                line = _line(prompt, answer, row)
                for metric in metrics.values():
                    line |= metric.add(row)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    finally:
        await pool.close()


async def _compared(pool: RewardPool, batch: Sequence[Pair]) -> list[float | None]:
    """Whether each final answer is right; None where that could not be told."""
    samples = [_sample(*pair) for pair in batch]
    groups = [samples[start : start + _GROUP] for start in range(0, len(samples), _GROUP)]
    scores = await asyncio.gather(*(pool.score(group) for group in groups))
    return [value for each in scores for value in each.values]


def _sample(prompt: Prompt, answer: Answer) -> Sample:
    columns = {"solution": prompt.columns["solution"]}
    return Sample(str(prompt.row), prompt.messages, _predict(answer), [], False, columns)


def row_of(prompt: Prompt, answer: Answer, is_right: float | None = None) -> Row:
    """A row as metrics see it. Without an answer of its own, its label is its `solution`."""
    solution = prompt.columns["solution"]
    solution = None if solution is None else str(solution)
    label = solution if prompt.answer is None else prompt.answer
    return Row(_predict(answer), label, solution, answer.score, is_right)


def _predict(answer: Answer) -> str:
    return answer.completions[0].text if answer.completions else ""


def _line(prompt: Prompt, answer: Answer, row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {"prompt": prompt.messages, "predict": row.predict, "label": row.label}
    if answer.completions:
        line["finish_reason"] = answer.completions[0].finish_reason
    if answer.refusal:
        line["refusal"] = answer.refusal
    return line
