"""The order of rows in training, and its stream to the train workers.

The order is a function of (rows on disk, seed, epoch) alone: the buckets of an epoch are permuted,
and the rows within each. An epoch is filled up with empty rows to whole global batches, so that
the rows of step s are exactly those at positions s*G to (s+1)*G - 1, for any number of workers and
from whichever step a run goes on. The stream is cut into blocks of G / workers rows, which go to
the workers in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workloads.data.prepare import Bucket

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset


_AT_ONCE = 1
"""Tasks that load segments, and that cut them into blocks: while one is cut, the next is loaded."""


@dataclass(frozen=True)
class Segment:
    """A stretch of the stream: rows `start` to `stop` of a bucket in its order, or empty rows."""

    position: int
    """Position in the stream of its first row."""
    bucket: Bucket | None
    start: int
    stop: int
    seed: tuple[int, ...] | None
    """What the order within the bucket follows from; the order on disk when None."""


def steps_per_epoch(rows: int, global_batch: int) -> int:
    """Optimiser steps of one epoch; the last one may have fewer rows."""
    return -(-rows // global_batch)


def segments(
    buckets: Sequence[Bucket], seed: int | None, global_batch: int, first_step: int, last_step: int
) -> Iterator[Segment]:
    """The stream for steps `first_step` to `last_step` - 1, unshuffled when `seed` is None."""
    rows = sum(bucket.rows for bucket in buckets)
    per_epoch = steps_per_epoch(rows, global_batch) * global_batch
    begin, end = first_step * global_batch, last_step * global_batch
    for epoch in range(begin // per_epoch, -(-end // per_epoch)):
        position = epoch * per_epoch
        for segment in _epoch(buckets, seed, epoch, position, per_epoch - rows):
            length = segment.stop - segment.start
            skip = max(begin - segment.position, 0)
            keep = min(end - segment.position, length)
            if skip < keep:
                yield Segment(
                    segment.position + skip, segment.bucket, segment.start + skip,
                    segment.start + keep, segment.seed,
                )  # fmt: skip


def _epoch(
    buckets: Sequence[Bucket], seed: int | None, epoch: int, position: int, filling: int
) -> Iterator[Segment]:
    order = range(len(buckets))
    if seed is not None:
        order = np.random.default_rng([seed, epoch]).permutation(len(buckets)).tolist()
    for index in order:
        row_seed = None if seed is None else (seed, epoch, index)
        yield Segment(position, buckets[index], 0, buckets[index].rows, row_seed)
        position += buckets[index].rows
    yield Segment(position, None, 0, filling, None)


class Rows(Protocol):
    """A worker's rows, as Ray's `DataIterator` gives them."""

    def iter_batches(self, **options: Any) -> Iterable[pyarrow.Table]:
        """Tables with the columns `position`, `input_ids` and `learned`."""
        ...


@dataclass(frozen=True)
class Stream:
    """Rows in their order, to be shared out to workers in blocks of a size, in turn."""

    segments: tuple[Segment, ...]
    folder: Path
    rows_per_block: int

    def dataset(self) -> Dataset:
        """The stream as a Ray dataset, which Ray Train shares out.

        Its tasks ask for no core: they wait for the disk most of the time, and would otherwise wait
        for ever where train workers have all cores.
        """
        import ray.data

        count = len(self.segments)
        numbers = ray.data.from_items(list(range(count)), override_num_blocks=count)
        loaded = numbers.map_batches(
            _load_numbered,
            batch_size=1,
            fn_args=(self.segments, self.folder),
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(_AT_ONCE),
        )
        cut = loaded.repartition(target_num_rows_per_block=self.rows_per_block, strict=True)
        # `repartition` has no arguments for these, though its operator has.
        operator = cut._logical_plan.dag
        operator.ray_remote_args["num_cpus"] = 0
        operator.compute.size = _AT_ONCE
        return cut

    def part(self, rank: int, workers: int) -> Part:
        """What one of the workers gets, which reads it from the disk by itself."""
        return Part(self, rank, workers)

    def blocks(self) -> Iterator[pyarrow.Table]:
        """All blocks; the last one may have fewer rows."""
        import pyarrow

        held: pyarrow.Table | None = None
        for segment in self.segments:
            table = _load(segment, self.folder)
            held = pyarrow.concat_tables([held, table]) if held else table
            whole = held.num_rows // self.rows_per_block * self.rows_per_block
            for start in range(0, whole, self.rows_per_block):
                yield held.slice(start, self.rows_per_block)
            held = held.slice(whole)
        if held:
            yield held


@dataclass(frozen=True)
class Part:
    """One worker's blocks of a stream: the one of its rank, and those so many workers on."""

    stream: Stream
    rank: int
    workers: int

    def iter_batches(self, **options: Any) -> Iterator[pyarrow.Table]:  # noqa: ARG002
        """The blocks of this worker, whichever size of batch is asked for: it is theirs."""
        return islice(self.stream.blocks(), self.rank, None, self.workers)


def _load_numbered(
    batch: dict[str, np.ndarray], segments: Sequence[Segment], folder: Path
) -> pyarrow.Table:
    return _load(segments[batch["item"][0]], folder)


def _load(segment: Segment, folder: Path) -> pyarrow.Table:
    import pyarrow

    table = _rows(segment, folder)
    positions = pyarrow.array(range(segment.position, segment.position + table.num_rows))
    return table.append_column("position", positions)


def _rows(segment: Segment, folder: Path) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    if segment.bucket is None:
        empty: list[list[int]] = [[]] * (segment.stop - segment.start)
        columns = {
            "input_ids": pyarrow.array(empty, pyarrow.list_(pyarrow.int32())),
            "learned": pyarrow.array(empty, pyarrow.list_(pyarrow.bool_())),
        }
        return pyarrow.table(columns)
    tables = [pyarrow.parquet.read_table(folder / file) for file in segment.bucket.files]
    table = pyarrow.concat_tables(tables)
    if segment.seed is None:
        return table.slice(segment.start, segment.stop - segment.start)
    order = np.random.default_rng(segment.seed).permutation(table.num_rows)
    return table.take(order[segment.start : segment.stop])
