"""From files to tokenized rows on disk, by Ray Data, once for a stage.

The driver cuts the files into chunks and chooses the rows; each chunk is then read, templated and
tokenized by a task, which scatters its rows over buckets at random. A bucket fits in memory, so
that an epoch can be shuffled bucket by bucket while it streams (`stream.py`), whatever the size of
the whole. What lies on disk is a function of the files, the dataset's spec and the seed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.spec.dataset import DatasetSpec, SourceSpec
from storage.commit import begin, commit
from storage.committed import fetch
from storage.manifest import Owner
from workloads.data.conversation import RowReader
from workloads.data.readers import load_reader
from workloads.data.rows import (
    REPORTED_ROWS,
    BadRow,
    Chunk,
    LeftOut,
    Message,
    check_left,
)
from workloads.data.selection import HELD_OUT, held_out_rows, select
from workloads.data.sources import chunk_files, find_files
from workloads.data.template import shorten, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BUCKET_BYTES = 32 * 2**20
"""Size of source text that a bucket holds about; its tokens take some times as much memory."""

_ROWS_AT_ONCE = 256
_INDEX = "index.json"


@dataclass(frozen=True)
class Bucket:
    """Rows that are loaded together. `files` are relative to the prepared folder."""

    files: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Prepared:
    """A stage's tokenized rows, and what became of those that are not among them."""

    train: tuple[Bucket, ...]
    validation: tuple[Bucket, ...]
    train_tokens: int
    bad_rows: int
    too_long: int
    first_bad: tuple[LeftOut, ...] = ()

    @property
    def train_rows(self) -> int:
        """Rows of one epoch."""
        return sum(bucket.rows for bucket in self.train)

    @property
    def validation_rows(self) -> int:
        """Rows of one evaluation."""
        return sum(bucket.rows for bucket in self.validation)

    def summary(self) -> str:
        """What a person should know, in a line or a few."""
        parts = [f"{self.train_rows:,} training rows ({self.train_tokens:,} tokens)"]
        if self.validation:
            parts.append(f"{self.validation_rows:,} validation rows")
        if self.too_long:
            parts.append(f"{self.too_long:,} rows left out as too long")
        if self.bad_rows:
            parts.append(f"{self.bad_rows:,} bad rows left out")
        named = [f"  {row.file}:{row.line}: {row.reason}" for row in self.first_bad]
        return "\n".join([", ".join(parts), *named])


@dataclass(frozen=True)
class _Task:
    """What one task is told: a chunk, the rows to take from it, and where they go."""

    number: int
    chunk: Chunk
    reader: RowReader
    repeats: np.ndarray
    seed: tuple[int, ...]
    train_buckets: int
    only_validation: bool


@dataclass
class _Outcome:
    """What one task did. Travels as JSON."""

    number: int
    rows: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    too_long: int = 0
    bad: int = 0
    first_bad: list[LeftOut] = field(default_factory=list)


def prepare(
    dataset: DatasetSpec,
    base_folders: Sequence[str],
    model: str,
    seed: int,
    folder: Path,
    owner: Owner,
) -> Prepared:
    """Tokenizes a dataset into `folder`, or finds that this was done. Needs a connected Ray.

    `model` is the folder or hub id whose tokenizer is used.

    Raises:
        SpecError: if rows can't be used and `strict` is set, or none is left to train on.
    """
    if fetch(folder):
        return read_prepared(folder)
    tasks = _plan(dataset, base_folders, seed)
    begin(folder, owner)
    outcomes = sorted(_run(tasks, dataset, model, folder), key=lambda outcome: outcome.number)
    prepared = _gather(outcomes)
    remedy = "raise max_length, set truncation_strategy: right, or give more rows"
    check_left(prepared.train_rows, prepared, dataset, "no row is left to train on", remedy)
    (folder / _INDEX).write_text(json.dumps(asdict(prepared)))
    commit(folder, owner, {"type": "dataset"})
    return prepared


def read_prepared(folder: Path) -> Prepared:
    """What `prepare` left in a folder."""
    index = json.loads((folder / _INDEX).read_text())
    for split in ("train", "validation"):
        index[split] = tuple(Bucket(tuple(b["files"]), b["rows"]) for b in index[split])
    index["first_bad"] = tuple(LeftOut(**row) for row in index["first_bad"])
    return Prepared(**index)


def _plan(dataset: DatasetSpec, base_folders: Sequence[str], seed: int) -> list[_Task]:
    sources = [(s, chunk_files(find_files(s.path, base_folders))) for s in dataset.train_sources]
    total_bytes = sum(chunk.size_bytes for _, chunks in sources for chunk in chunks)
    buckets = -(-total_bytes // BUCKET_BYTES) if dataset.shuffle else 0
    sizes = [_used_rows(source, chunks) for source, chunks in sources]
    held_out = held_out_rows(sizes, dataset.held_out)
    tasks: list[_Task] = []
    for index, ((source, chunks), validation) in enumerate(zip(sources, held_out, strict=True)):
        repeats = _select(source, chunks, validation, (seed, index) if dataset.shuffle else None)
        _add_tasks(tasks, dataset, source, chunks, repeats, (seed, index), buckets, False)
    for source in dataset.validation_sources:
        chunks = chunk_files(find_files(source.path, base_folders))
        repeats = _select(source, chunks, 0, None)
        _add_tasks(tasks, dataset, source, chunks, repeats, (seed,), 0, True)
    return tasks


def _rows(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.rows for chunk in chunks)


def _used_rows(source: SourceSpec, chunks: Sequence[Chunk]) -> int:
    return min(_rows(chunks), source.sample or _rows(chunks))


def _select(
    source: SourceSpec, chunks: Sequence[Chunk], validation: int, seed: tuple[int, int] | None
) -> np.ndarray:
    rows = _rows(chunks)
    return select(rows, source.sample or rows, validation, seed)


def _add_tasks(
    tasks: list[_Task], dataset: DatasetSpec, source: SourceSpec, chunks: Sequence[Chunk],
    repeats: np.ndarray, seed: tuple[int, ...], buckets: int, only_validation: bool,
) -> None:  # fmt: skip
    reader, offset = RowReader.of(dataset, source), 0
    for chunk in chunks:
        part = repeats[offset : offset + chunk.rows]
        offset += chunk.rows
        number = len(tasks)
        tasks.append(_Task(number, chunk, reader, part, (*seed, number), buckets, only_validation))


def _run(tasks: list[_Task], dataset: DatasetSpec, model: str, folder: Path) -> Iterator[_Outcome]:
    import ray.data

    numbers = ray.data.range(len(tasks), override_num_blocks=len(tasks))
    done = numbers.map(_run_task, fn_args=(tasks, dataset, model, str(folder)))
    for row in done.iter_rows():
        outcome = json.loads(row["outcome"])
        outcome["first_bad"] = [LeftOut(**bad) for bad in outcome["first_bad"]]
        yield _Outcome(**outcome)


def _run_task(
    row: dict[str, int], tasks: list[_Task], dataset: DatasetSpec, model: str, folder: str
) -> dict[str, str]:
    task = tasks[row["id"]]
    outcome = _Outcome(task.number)
    writer = _Writer(Path(folder), task, outcome)
    tokenizer = load_tokenizer(model, dataset.chat_template)
    batch: list[tuple[int, int, list[Message]]] = []
    for record, repeats in zip(
        load_reader(task.chunk.reader).read(task.chunk), task.repeats, strict=True
    ):
        if not repeats:
            continue
        try:
            batch.append((record.line, int(repeats), task.reader.messages(record.columns)))
        except BadRow as error:
            writer.bad(record.line, error)
        if len(batch) == _ROWS_AT_ONCE:
            _tokenize_batch(tokenizer, dataset, batch, writer)
            batch = []
    _tokenize_batch(tokenizer, dataset, batch, writer)
    writer.close()
    return {"outcome": json.dumps(asdict(outcome))}


@cache
def load_tokenizer(model: str, chat_template: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, with another chat template where a file is given."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if chat_template:
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    return tokenizer


def _tokenize_batch(
    tokenizer: PreTrainedTokenizerFast, dataset: DatasetSpec,
    batch: list[tuple[int, int, list[Message]]], writer: _Writer,
) -> None:  # fmt: skip
    rows = tokenize(tokenizer, [messages for _, _, messages in batch])
    for (line, repeats, _), row in zip(batch, rows, strict=True):
        if isinstance(row, BadRow):
            writer.bad(line, row)
        elif short := shorten(row, dataset.max_length, dataset.truncation_strategy):
            writer.add(short.input_ids, short.learned, repeats)
        else:
            writer.outcome.too_long += 1


class _Writer:
    """Collects one task's rows by bucket and writes a file for each that has some."""

    def __init__(self, folder: Path, task: _Task, outcome: _Outcome) -> None:
        self.folder, self.task, self.outcome = folder, task, outcome
        self.random = np.random.default_rng(task.seed)
        self.buckets: dict[str, tuple[list[list[int]], list[list[bool]]]] = {}

    def add(self, ids: list[int], learned: list[bool], repeats: int) -> None:
        held_out = repeats == HELD_OUT or self.task.only_validation
        for _ in range(1 if held_out else repeats):
            bucket = f"validation-{self.task.number:06d}" if held_out else self._train_bucket()
            all_ids, all_learned = self.buckets.setdefault(bucket, ([], []))
            all_ids.append(ids)
            all_learned.append(learned)
            self.outcome.tokens += 0 if held_out else len(ids)

    def _train_bucket(self) -> str:
        buckets = self.task.train_buckets
        number = self.random.integers(buckets) if buckets else self.task.number
        return f"train-{number:06d}"

    def bad(self, line: int, error: BadRow) -> None:
        self.outcome.bad += 1
        if len(self.outcome.first_bad) < REPORTED_ROWS:
            self.outcome.first_bad.append(LeftOut(self.task.chunk.file, line, str(error)))

    def close(self) -> None:
        import pyarrow
        import pyarrow.parquet

        for bucket, (ids, learned) in self.buckets.items():
            columns = {
                "input_ids": pyarrow.array(ids, pyarrow.list_(pyarrow.int32())),
                "learned": pyarrow.array(learned, pyarrow.list_(pyarrow.bool_())),
            }
            path = self.folder / bucket / f"{self.task.number:06d}.parquet"
            path.parent.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
            self.outcome.rows[bucket] = len(ids)


def _gather(outcomes: list[_Outcome]) -> Prepared:
    rows: Counter[str] = Counter()
    files: dict[str, list[str]] = {}
    for outcome in outcomes:
        for bucket, count in outcome.rows.items():
            rows[bucket] += count
            files.setdefault(bucket, []).append(f"{bucket}/{outcome.number:06d}.parquet")
    buckets = {name: Bucket(tuple(files[name]), rows[name]) for name in sorted(rows)}
    return Prepared(
        train=tuple(b for name, b in buckets.items() if name.startswith("train-")),
        validation=tuple(b for name, b in buckets.items() if name.startswith("validation-")),
        train_tokens=sum(outcome.tokens for outcome in outcomes),
        bad_rows=sum(outcome.bad for outcome in outcomes),
        too_long=sum(outcome.too_long for outcome in outcomes),
        first_bad=tuple(bad for o in outcomes for bad in o.first_bad)[:REPORTED_ROWS],
    )
