"""What a model answered, chunk by chunk: one file to a chunk of rows, written whole or not at all.

A chunk whose file exists is done. Its name follows from the numbers of its rows alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.durable import write_atomic

ROWS_PER_CHUNK = 32
"""Rows that are asked and kept together. It can't change while a run goes on: files are found by
it."""


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str
    token_ids: list[int]
    """(T,) with the token that ended it."""
    finish_reason: str
    """`stop` where the model or a stop text ended it, `length` where it was cut off."""


@dataclass(frozen=True)
class Score:
    """How likely the model finds what a row's assistant says."""

    tokens: int
    """Tokens that the assistant says."""
    loss_sum: float
    """Sum of their negative log-probabilities, in nats."""
    right: int
    """Those that the model finds likeliest at their place."""


@dataclass(frozen=True)
class Answer:
    """What came of one row."""

    row: int
    """The number of its prompt."""
    completions: list[Completion]
    """As many as were asked for; none where the engine refused the prompt."""
    refusal: str | None = None
    """Why the engine refused the prompt or the conversation."""
    score: Score | None = None


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `stop` - 1."""

    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    def file(self, folder: Path) -> Path:
        """Where its answers are kept."""
        return folder / f"chunk-{self.number:07d}.jsonl"


def chunks(rows: int) -> list[Chunk]:
    """All chunks of so many rows."""
    starts = range(0, rows, ROWS_PER_CHUNK)
    return [Chunk(n, start, min(start + ROWS_PER_CHUNK, rows)) for n, start in enumerate(starts)]


def write_chunk(folder: Path, chunk: Chunk, answers: Sequence[Answer]) -> None:
    """Keeps a chunk's answers, which are in the order of its rows."""
    lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    write_atomic(chunk.file(folder), "".join(lines).encode("utf-8", "backslashreplace"))


def read_answers(folder: Path, rows: int) -> Iterator[Answer]:
    """All answers, in the order of their rows. `rows` is how many there are.

    Raises:
        FileNotFoundError: at a chunk that is not done.
    """
    for chunk in chunks(rows):
        with chunk.file(folder).open(encoding="utf-8") as file:
            for line in file:
                yield _answer(line)


def _answer(line: str) -> Answer:
    values = json.loads(line)
    values["completions"] = [Completion(**each) for each in values["completions"]]
    if values["score"]:
        values["score"] = Score(**values["score"])
    return Answer(**values)
