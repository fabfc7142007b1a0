"""From a chunk of a dataset to a Parquet file of tokenized prompts: what one task does.

The file's columns: `prompt_ids`; as JSON `messages` and `columns`, which rewards are given; the
`answer` that the row holds; and where losses are measured, the whole conversation as `input_ids`
with the mask `learned`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workloads.data.conversation import RowReader, with_solution
from workloads.data.prepare import load_tokenizer
from workloads.data.readers import load_reader
from workloads.data.rows import REPORTED_ROWS, BadRow, Chunk, LeftOut, Message
from workloads.data.template import Tokenized, shorten, tokenize, tokenize_prompts

if TYPE_CHECKING:
    import pyarrow

ROWS_PER_GROUP = 256
"""Prompts that are tokenized, and later read, at once."""


@dataclass(frozen=True)
class PromptTask:
    """What one task is told: a chunk, and how often to take each of its rows."""

    number: int
    chunk: Chunk
    reader: RowReader
    repeats: np.ndarray


@dataclass(frozen=True)
class Tokenizing:
    """How rows become tokens."""

    model: str
    chat_template: str | None
    max_length: int
    strategy: Literal["delete", "left"]
    whole: bool = False
    """Whether the whole conversation is kept beside the prompt, to measure its loss."""


@dataclass
class PromptOutcome:
    """What one task did. Travels as JSON."""

    number: int
    rows: int = 0
    too_long: int = 0
    cut: int = 0
    bad: int = 0
    first_bad: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    line: int
    repeats: int
    messages: list[Message]
    answer: str | None
    columns: Mapping[str, Any]
    conversation: list[Message]
    """With the assistant's last turn; empty where it is not wanted, or the assistant is silent."""


def prompt_file(number: int) -> str:
    """The name of a task's file in the prepared folder."""
    return f"{number:06d}.parquet"


def prompt_task(
    row: dict[str, int], tasks: list[PromptTask], how: Tokenizing, folder: str
) -> dict[str, str]:
    """Writes the file of task `row["id"]`. Returns its PromptOutcome as JSON, under `outcome`."""
    import pyarrow.parquet

    task = tasks[row["id"]]
    outcome = PromptOutcome(task.number)
    with pyarrow.parquet.ParquetWriter(Path(folder, prompt_file(task.number)), _schema()) as file:
        for batch in _batches(task, how, outcome):
            table = _tokenized(batch, task.chunk.file, how, outcome)
            file.write_table(table, row_group_size=ROWS_PER_GROUP)
            outcome.rows += table.num_rows
    return {"outcome": json.dumps(asdict(outcome))}


def _schema() -> pyarrow.Schema:
    import pyarrow

    text = pyarrow.string()
    ids, mask = pyarrow.list_(pyarrow.int32()), pyarrow.list_(pyarrow.bool_())
    return pyarrow.schema(
        {
            "prompt_ids": ids,
            "messages": text,
            "answer": text,
            "columns": text,
            "input_ids": ids,
            "learned": mask,
        }
    )


def _batches(task: PromptTask, how: Tokenizing, outcome: PromptOutcome) -> Iterator[list[_Row]]:
    """The chunk's rows as prompts, `ROWS_PER_GROUP` at a time; bad ones are counted."""
    batch: list[_Row] = []
    records = load_reader(task.chunk.reader).read(task.chunk)
    for record, repeats in zip(records, task.repeats, strict=True):
        if not repeats:
            continue
        try:
            messages, answer = task.reader.prompt(record.columns)
        except BadRow as error:
            _count_bad(outcome, task.chunk.file, record.line, error)
            continue
        columns = with_solution(task.reader.renamed(record.columns), answer)
        conversation = _conversation(task.reader, record.columns) if how.whole else []
        batch.append(_Row(record.line, int(repeats), messages, answer, columns, conversation))
        if len(batch) == ROWS_PER_GROUP:
            yield batch
            batch = []
    yield batch


def _conversation(reader: RowReader, columns: Mapping[str, Any]) -> list[Message]:
    try:
        return reader.messages(columns)
    except BadRow:
        return []  # it is a prompt all the same


def _tokenized(
    batch: list[_Row], file: str, how: Tokenizing, outcome: PromptOutcome
) -> pyarrow.Table:
    import pyarrow

    tokenizer = load_tokenizer(how.model, how.chat_template)
    rows: list[dict[str, Any]] = []
    found = tokenize_prompts(tokenizer, [row.messages for row in batch])
    whole = iter(tokenize(tokenizer, [row.conversation for row in batch if row.conversation]))
    for row, ids in zip(batch, found, strict=True):
        tokens = next(whole) if row.conversation else None
        if isinstance(ids, BadRow):
            _count_bad(outcome, file, row.line, ids)
            continue
        is_long = len(ids) > how.max_length
        if is_long and how.strategy == "delete":
            outcome.too_long += 1
            continue
        outcome.cut += is_long * row.repeats
        values = {
            "prompt_ids": ids[-how.max_length :],
            "messages": json.dumps(row.messages),
            "answer": row.answer,
            "columns": json.dumps(row.columns, default=_as_text),
            **_scored(tokens, how),
        }
        rows += [values] * row.repeats
    return pyarrow.Table.from_pylist(rows, schema=_schema())


def _scored(tokens: Tokenized | BadRow | None, how: Tokenizing) -> dict[str, Any]:
    """The conversation's tokens, within the greatest length; nothing where there are none."""
    if isinstance(tokens, Tokenized):
        tokens = shorten(tokens, how.max_length, how.strategy)
    if not isinstance(tokens, Tokenized):
        return {"input_ids": None, "learned": None}
    return {"input_ids": tokens.input_ids, "learned": tokens.learned}


def _as_text(value: object) -> str:
    """A value that JSON has no form for, such as a date or bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _count_bad(outcome: PromptOutcome, file: str, line: int, error: BadRow) -> None:
    outcome.bad += 1
    if len(outcome.first_bad) < REPORTED_ROWS:
        outcome.first_bad.append(LeftOut(file, line, str(error)))
