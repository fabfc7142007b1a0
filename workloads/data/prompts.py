"""Prompts: from a dataset's files to tokenized rows on disk, and from there a few at a time.

As with rows to learn from (`workloads.data.prepare`), the driver cuts files into chunks and chooses
rows, and tasks read and tokenize a chunk each. Prompts are numbered in the order of their files.
The order of training is a permutation of these numbers for each epoch, a function of (number of
prompts, seed, epoch) alone. What lies on disk is never read as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.spec.dataset import PromptRowsSpec
from storage.commit import begin, commit
from storage.committed import fetch
from storage.manifest import Owner
from workloads.data.conversation import RowReader
from workloads.data.prompt_rows import (
    PromptOutcome,
    PromptTask,
    Tokenizing,
    prompt_file,
    prompt_task,
)
from workloads.data.rows import REPORTED_ROWS, LeftOut, Message, check_left
from workloads.data.selection import select
from workloads.data.sources import chunk_files, find_files
from workloads.data.template import Tokenized

if TYPE_CHECKING:
    import pyarrow

_CACHED_GROUPS = 16
_INDEX = "index.json"


@dataclass(frozen=True)
class Prompt:
    """A conversation for the model to go on with."""

    row: int
    prompt_ids: list[int]
    """(P,) the conversation's tokens, with those that ask for the model's turn."""
    messages: list[Message]
    columns: Mapping[str, Any]
    """The row's columns by the names that the spec gives them. `solution` is always among them."""
    answer: str | None = None
    """What the row itself answers."""
    whole: Tokenized | None = None
    """The conversation with its answers, where that was asked for and the row has one."""


@dataclass(frozen=True)
class PromptFile:
    """Prompts of one chunk. `name` is relative to the prepared folder."""

    name: str
    rows: int


@dataclass(frozen=True)
class PreparedPrompts:
    """A stage's prompts, and what became of the rows that are not among them."""

    files: tuple[PromptFile, ...]
    bad_rows: int
    too_long: int
    cut: int
    """Prompts that lost their beginning."""
    first_bad: tuple[LeftOut, ...] = ()

    @property
    def rows(self) -> int:
        """Prompts of one epoch."""
        return sum(file.rows for file in self.files)

    def summary(self) -> str:
        """What a person should know, in a line or a few."""
        parts = [f"{self.rows:,} prompts"]
        if self.cut:
            parts.append(f"{self.cut:,} of them cut at their beginning")
        if self.too_long:
            parts.append(f"{self.too_long:,} left out as too long")
        if self.bad_rows:
            parts.append(f"{self.bad_rows:,} bad rows left out")
        named = [f"  {row.file}:{row.line}: {row.reason}" for row in self.first_bad]
        return "\n".join([", ".join(parts), *named])


def prepare_prompts(
    dataset: PromptRowsSpec,
    base_folders: Sequence[str],
    model: str,
    seed: int,
    folder: Path,
    owner: Owner,
    multi_turn: bool = False,
    whole: bool = False,
) -> PreparedPrompts:
    """Tokenizes prompts into `folder`, or finds that this was done. Needs a connected Ray.

    Args:
        dataset: where they are, and how long they may be.
        base_folders: where relative paths are looked up.
        model: the folder whose tokenizer is used.
        seed: the job's.
        folder: is committed when this returns.
        owner: who writes.
        multi_turn: whether an environment goes on with the messages, which then must be those
            that the tokens stand for: a longer prompt is dropped, whatever the dataset says.
        whole: whether conversations are kept with their answers, to measure losses.

    Raises:
        SpecError: if rows can't be used and `strict` is set, or none is left.
    """
    if fetch(folder):
        return read_prepared(folder)
    tasks = _plan(dataset, base_folders, seed)
    strategy = "delete" if multi_turn else dataset.truncation_strategy
    how = Tokenizing(model, dataset.chat_template, dataset.max_length, strategy, whole)
    begin(folder, owner)
    outcomes = sorted(_run(tasks, how, folder), key=lambda outcome: outcome.number)
    prepared = _gather(outcomes)
    remedy = "raise max_length, or give shorter prompts"
    check_left(prepared.rows, prepared, dataset, "no prompt is left", remedy)
    (folder / _INDEX).write_text(json.dumps(asdict(prepared)))
    commit(folder, owner, {"type": "prompts"})
    return prepared


def read_prepared(folder: Path) -> PreparedPrompts:
    """What `prepare_prompts` left in a folder."""
    index = json.loads((folder / _INDEX).read_text())
    index["files"] = tuple(PromptFile(**file) for file in index["files"])
    index["first_bad"] = tuple(LeftOut(**row) for row in index["first_bad"])
    return PreparedPrompts(**index)


class PromptReader:
    """Prompts by number, a group of rows in memory at a time. Several threads may read."""

    def __init__(self, folder: Path) -> None:
        """`folder` is what `prepare_prompts` committed."""
        prepared = read_prepared(folder)
        self.rows = prepared.rows
        self._paths = [folder / file.name for file in prepared.files]
        self._ends = np.cumsum([file.rows for file in prepared.files])
        self._group_ends = lru_cache(maxsize=1024)(_group_ends)
        self._group = lru_cache(maxsize=_CACHED_GROUPS)(_group)

    def read(self, rows: Iterable[int]) -> list[Prompt]:
        """The prompts of these numbers, in their order.

        Raises:
            IndexError: if there is no prompt of a number.
        """
        wanted = [int(row) for row in rows]
        # In the order of the files, so that a group is read once.
        found = {row: self._prompt(row) for row in sorted(set(wanted))}
        return [found[row] for row in wanted]

    def _prompt(self, row: int) -> Prompt:
        if not 0 <= row < self.rows:
            raise IndexError(f"there is no prompt {row}: there are {self.rows}")
        file, within = _place(self._ends, row)
        group, within = _place(self._group_ends(self._paths[file]), within)
        (values,) = self._group(self._paths[file], group).slice(within, 1).to_pylist()
        return Prompt(
            row,
            values["prompt_ids"],
            json.loads(values["messages"]),
            json.loads(values["columns"]),
            values["answer"],
            Tokenized(values["input_ids"], values["learned"]) if values["input_ids"] else None,
        )


def _place(ends: np.ndarray, row: int) -> tuple[int, int]:
    """The part that a row is in, and its number there. `ends` are those of the parts."""
    part = int(np.searchsorted(ends, row, side="right"))
    return part, row - int(ends[part - 1] if part else 0)


def _group_ends(path: Path) -> np.ndarray:
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    return np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])


def _group(path: Path, group: int) -> pyarrow.Table:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group)


@lru_cache(maxsize=2)
def order(rows: int, seed: int | None, epoch: int) -> np.ndarray:
    """The numbers of an epoch's prompts in order; the order on disk when `seed` is None. (rows,)"""
    numbers = np.arange(rows)
    if seed is not None:
        numbers = np.random.default_rng([seed, epoch]).permutation(rows)
    numbers.flags.writeable = False  # it is kept, and given to others
    return numbers


def locate(position: int, rows: int, seed: int | None) -> tuple[int, int]:
    """The epoch that a position in the stream of all epochs is in, and the prompt's number."""
    epoch, index = divmod(position, rows)
    return epoch, int(order(rows, seed, epoch)[index])


def _plan(dataset: PromptRowsSpec, base_folders: Sequence[str], seed: int) -> list[PromptTask]:
    tasks: list[PromptTask] = []
    for index, source in enumerate(dataset.sources[dataset.main_field]):
        reader = RowReader.of(dataset, source)
        chunks = chunk_files(find_files(source.path, base_folders))
        rows = sum(chunk.rows for chunk in chunks)
        source_seed = (seed, index) if dataset.shuffle else None
        repeats = select(rows, source.sample or rows, 0, source_seed)
        for chunk in chunks:
            tasks.append(PromptTask(len(tasks), chunk, reader, repeats[: chunk.rows]))
            repeats = repeats[chunk.rows :]
    return tasks


def _run(tasks: list[PromptTask], how: Tokenizing, folder: Path) -> Iterator[PromptOutcome]:
    import ray.data

    numbers = ray.data.range(len(tasks), override_num_blocks=len(tasks))
    done = numbers.map(prompt_task, fn_args=(tasks, how, str(folder)))
    for row in done.iter_rows():
        outcome = json.loads(row["outcome"])
        outcome["first_bad"] = [LeftOut(**bad) for bad in outcome["first_bad"]]
        yield PromptOutcome(**outcome)


def _gather(outcomes: list[PromptOutcome]) -> PreparedPrompts:
    return PreparedPrompts(
        files=tuple(PromptFile(prompt_file(o.number), o.rows) for o in outcomes if o.rows),
        bad_rows=sum(outcome.bad for outcome in outcomes),
        too_long=sum(outcome.too_long for outcome in outcomes),
        cut=sum(outcome.cut for outcome in outcomes),
        first_bad=tuple(bad for o in outcomes for bad in o.first_bad)[:REPORTED_ROWS],
    )
