"""Chunks of rows, and their answers on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from workloads.generate.answers import (
    ROWS_PER_CHUNK,
    Answer,
    Completion,
    Score,
    chunks,
    read_answers,
    write_chunk,
)
from workloads.generate.pool import Tally, missing
from workloads.generate.worker import row_seed

ROWS = 2 * ROWS_PER_CHUNK + 3


def answer(row: int) -> Answer:
    if row == 5:
        return Answer(row, [], "too long")
    return Answer(row, [Completion(f"\n é {row}\ud800", [1, row], "stop")], None, Score(2, 0.5, 1))


def test_chunks_cover_all_rows() -> None:
    assert [(c.start, c.stop, c.rows) for c in chunks(ROWS)] == [
        (0, ROWS_PER_CHUNK, ROWS_PER_CHUNK),
        (ROWS_PER_CHUNK, 2 * ROWS_PER_CHUNK, ROWS_PER_CHUNK),
        (2 * ROWS_PER_CHUNK, ROWS, 3),
    ]
    assert chunks(0) == []


def test_answers_are_read_in_the_order_of_rows(tmp_path: Path) -> None:
    for chunk in reversed(chunks(ROWS)):
        assert chunk in missing(tmp_path, ROWS)
        write_chunk(tmp_path, chunk, [answer(row) for row in range(chunk.start, chunk.stop)])
    assert missing(tmp_path, ROWS) == []
    found = list(read_answers(tmp_path, ROWS))
    assert [each.row for each in found] == list(range(ROWS))
    assert found[5] == answer(5)
    assert found[7].score == Score(2, 0.5, 1)
    assert found[7].completions[0].token_ids == [1, 7]


def test_a_missing_chunk_is_no_silent_end(tmp_path: Path) -> None:
    first, *_ = chunks(ROWS)
    write_chunk(tmp_path, first, [answer(row) for row in range(first.rows)])
    with pytest.raises(FileNotFoundError):
        list(read_answers(tmp_path, ROWS))


def test_a_rows_seed_is_its_own() -> None:
    assert row_seed(7, 3) == row_seed(7, 3)
    seeds = {row_seed(seed, row) for seed in range(10) for row in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_what_remains_follows_from_the_rate() -> None:
    assert Tally(rows=10, of=30, seconds=5.0).remaining_s == 10.0
    assert Tally(rows=0, of=30).remaining_s is None
