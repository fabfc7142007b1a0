"""Writes what is kept as a dataset, and counts what is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.spec.sample import SampleSpec
from workloads.data.prompts import Prompt
from workloads.generate.answers import Answer
from workloads.sample.keep import Scored, kept

ROWS_FILE = {"jsonl": "train.jsonl", "parquet": "train.parquet"}
_ROWS_AT_ONCE = 1000


@dataclass
class Outcome:
    """What became of the answers."""

    prompts: int = 0
    answers: int = 0
    rows: int = 0
    prompts_without_rows: int = 0
    refused: int = 0
    """Prompts that the engine would not answer."""
    truncated: int = 0
    """Answers that were cut off."""
    unscored: int = 0
    """Answers that a reward failed at."""
    failures: Counter[str] = field(default_factory=Counter)
    """Why, and how often."""
    reward_sum: float = 0.0
    kept_reward_sum: float = 0.0
    scored: int = 0
    best_reward: float | None = None

    @property
    def reward(self) -> float | None:
        """The mean reward of all answers that have one."""
        return self.reward_sum / self.scored if self.scored else None

    @property
    def kept_reward(self) -> float | None:
        """The mean reward of the rows."""
        return self.kept_reward_sum / self.rows if self.rows and self.scored else None

    def lines(self) -> Iterator[str]:
        """What a person should know."""
        share = self.prompts_without_rows / max(self.prompts, 1)
        yield (
            f"{self.rows:,} rows kept of {self.answers:,} answers to {self.prompts:,} prompts; "
            f"{self.prompts_without_rows:,} prompts ({share:.0%}) have none"
        )
        if self.reward is not None and self.kept_reward is not None:
            yield f"mean reward {self.reward:.3f}, of the rows {self.kept_reward:.3f}"
        if self.truncated:
            yield f"{self.truncated:,} answers were cut off at their greatest length"
        if self.refused:
            yield f"{self.refused:,} prompts were refused by the engine"
        for reason, count in self.failures.most_common(3):
            yield f"{count:,} answers could not be scored: {reason}"

    def as_json(self) -> dict[str, Any]:
        """The figures by name."""
        names = ("prompts", "answers", "rows", "prompts_without_rows", "refused", "truncated",
                 "unscored", "reward", "kept_reward", "best_reward")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def rows_of(
    answered: Iterable[tuple[Prompt, Answer, list[Scored]]],
    spec: SampleSpec,
    model: str,
    outcome: Outcome,
) -> Iterator[dict[str, Any]]:
    """The rows to write, a prompt after the other; `outcome` counts what passes by."""
    for prompt, answer, scored in answered:
        rows = kept(scored, spec.keep, bool(spec.rewards))
        _count(outcome, answer, scored, rows)
        for each in rows:
            row: dict[str, Any] = {
                "messages": [*prompt.messages, {"role": "assistant", "content": each.text}],
                "reward": each.reward,
                "rewards": dict(each.rewards),
                "model": model,
                "prompt": prompt.row,
            }
            if prompt.columns.get("solution") is not None:
                row["solution"] = prompt.columns["solution"]
            yield row


def write_rows(rows: Iterable[dict[str, Any]], folder: Path, file_format: str) -> None:
    """Writes rows to the folder's one file, few in memory at a time."""
    file = folder / ROWS_FILE[file_format]
    if file_format == "jsonl":
        with file.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        _write_parquet(rows, file)


def _write_parquet(rows: Iterable[dict[str, Any]], file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    message = pyarrow.struct({"role": text, "content": text})
    schema = pyarrow.schema(
        {
            "messages": pyarrow.list_(message),
            "reward": pyarrow.float64(),
            "rewards": text,
            "model": text,
            "prompt": pyarrow.int64(),
            "solution": text,
        }
    )
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for batch in _batches(rows):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        # Columns of one type each: labels of rewards differ from stage to stage.
        solution = row.get("solution")
        whole = solution if isinstance(solution, str | None) else json.dumps(solution)
        batch.append(row | {"rewards": json.dumps(row["rewards"]), "solution": whole})
        if len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _count(outcome: Outcome, answer: Answer, scored: list[Scored], rows: list[Scored]) -> None:
    outcome.prompts += 1
    outcome.answers += len(scored)
    outcome.rows += len(rows)
    outcome.prompts_without_rows += not rows
    outcome.refused += answer.refusal is not None
    outcome.truncated += sum(each.truncated for each in scored)
    outcome.failures.update(each.failure for each in scored if each.failure)
    outcome.unscored = outcome.failures.total()
    known = [each.reward for each in scored if each.reward is not None]
    outcome.scored += len(known)
    outcome.reward_sum += sum(known)
    outcome.kept_reward_sum += sum(each.reward or 0.0 for each in rows)
    best = [*known, *([outcome.best_reward] if outcome.best_reward is not None else [])]
    outcome.best_reward = max(best, default=None)
