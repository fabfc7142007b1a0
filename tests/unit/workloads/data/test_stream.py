"""The order of rows: whole epochs, the same from any step, and the rows behind a segment."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from workloads.data.prepare import Bucket
from workloads.data.stream import Stream, _rows, segments, steps_per_epoch

Place = tuple[int, tuple[str, int] | None]


def _order(
    buckets: list[Bucket], seed: int | None, batch: int, first: int, last: int
) -> list[Place]:
    """Position and row of all that the stream holds; None for filling."""
    places: list[Place] = []
    for segment in segments(buckets, seed, batch, first, last):
        if segment.bucket is None:
            rows: list[tuple[str, int] | None] = [None] * (segment.stop - segment.start)
        else:
            order = np.arange(segment.bucket.rows)
            if segment.seed is not None:
                order = np.random.default_rng(segment.seed).permutation(segment.bucket.rows)
            name = segment.bucket.files[0]
            rows = [(name, int(row)) for row in order[segment.start : segment.stop]]
        places += zip(range(segment.position, segment.position + len(rows)), rows, strict=True)
    return places


def _case(chance: random.Random) -> tuple[list[Bucket], int, int]:
    sizes = [chance.randint(1, 12) for _ in range(chance.randint(1, 6))]
    buckets = [Bucket((str(index),), size) for index, size in enumerate(sizes)]
    return buckets, chance.randint(1, 9), chance.randint(1, 4)


@pytest.mark.parametrize("case", range(25))
def test_going_on_from_any_step_gives_the_rest_of_the_stream(case: int) -> None:
    chance = random.Random(case)
    buckets, batch, epochs = _case(chance)
    seed = chance.choice([None, 7])
    last = chance.randint(1, epochs * steps_per_epoch(sum(b.rows for b in buckets), batch))
    whole = _order(buckets, seed, batch, 0, last)
    assert [position for position, _ in whole] == list(range(last * batch))
    for first in range(last + 1):
        assert _order(buckets, seed, batch, first, last) == whole[first * batch :]


@pytest.mark.parametrize("case", range(25))
def test_every_epoch_holds_each_row_once_and_then_filling(case: int) -> None:
    buckets, batch, epochs = _case(random.Random(case))
    rows = [(bucket.files[0], row) for bucket in buckets for row in range(bucket.rows)]
    steps = steps_per_epoch(len(rows), batch)
    whole = [row for _, row in _order(buckets, 7, batch, 0, epochs * steps)]
    for start, stop in pairwise(range(0, len(whole) + 1, steps * batch)):
        epoch = whole[start:stop]
        assert Counter(epoch[: len(rows)]) == Counter(rows)
        assert epoch[len(rows) :] == [None] * (steps * batch - len(rows))
        assert steps * batch - len(rows) < batch


@pytest.mark.parametrize("count", [1, 4])
def test_each_epoch_and_seed_has_an_order_of_its_own(count: int) -> None:
    buckets, rows = [Bucket((str(index),), 50) for index in range(count)], 50 * count
    two = [row for _, row in _order(buckets, 7, rows, 0, 2)]
    other = [row for _, row in _order(buckets, 8, rows, 0, 1)]
    first, second = two[:rows], two[rows:]
    assert first != second != other != first
    in_order = [row for _, row in _order(buckets, None, rows, 0, 2)]
    assert in_order == [(str(b), row) for b in range(count) for row in range(50)] * 2


def test_a_segment_s_rows_are_those_of_its_order(tmp_path: Path) -> None:
    for file, ids in (("a.parquet", [[0], [1, 1]]), ("b.parquet", [[2], [3], [4]])):
        columns = {"input_ids": ids, "learned": [[True] * len(each) for each in ids]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / file)
    bucket = Bucket(("a.parquet", "b.parquet"), 5)
    stream = list(segments([bucket], 7, 3, 0, 2))
    firsts = [ids[0] for segment in stream[:-1] for ids in _ids(segment, tmp_path)]
    expected = [row for _, row in _order([bucket], 7, 3, 0, 2) if row]
    assert firsts == [row for _, row in expected]
    assert sorted(firsts) == [0, 1, 2, 3, 4]
    assert _ids(stream[-1], tmp_path) == [[]]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_workers_read_the_blocks_of_their_steps(tmp_path: Path, workers: int, first: int) -> None:
    for name, rows in (("a.parquet", range(7)), ("b.parquet", range(7, 12))):
        columns = {"input_ids": [[row] for row in rows], "learned": [[True] for _ in rows]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / name)
    buckets, batch = [Bucket(("a.parquet",), 7), Bucket(("b.parquet",), 5)], 2 * workers
    whole = tuple(segments(buckets, 7, batch, first, 5))
    stream = Stream(whole, tmp_path, 2)
    parts = [list(stream.part(rank, workers).iter_batches()) for rank in range(workers)]
    for step, blocks in enumerate(zip(*parts, strict=True), start=first):
        positions = [p for block in blocks for p in block["position"].to_pylist()]
        assert positions == list(range(step * batch, (step + 1) * batch))
    read = [ids for blocks in zip(*parts, strict=True) for b in blocks for ids in _columns(b)]
    assert read == [ids for segment in whole for ids in _ids(segment, tmp_path)]


def _columns(block: pyarrow.Table) -> list[list[int]]:
    ids: list[list[int]] = block["input_ids"].to_pylist()
    return ids


def _ids(segment: object, folder: Path) -> list[list[int]]:
    ids: list[list[int]] = _rows(segment, folder)["input_ids"].to_pylist()  # type: ignore[arg-type]
    return ids
