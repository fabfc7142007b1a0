"""Rows become padded passes; which rows are together changes nothing but padding."""

import random

import numpy as np
import pyarrow
import pytest
import torch

from workloads.train.batches import IGNORED, MicroBatch, Row, micro_batches, rows_of

PAD = 9


def _row(position: int, ids: list[int], learned: list[bool] | None = None) -> Row:
    flags = [index > 0 for index in range(len(ids))] if learned is None else learned
    return Row(position, np.array(ids, dtype=np.int32), np.array(flags, dtype=bool))


def _content(batches: list[MicroBatch]) -> dict[int, list[tuple[int, int]]]:
    """Ids and labels of each row without its padding, by position."""
    content = {}
    for batch in batches:
        mask = torch.ones_like(batch.input_ids)
        mask = mask if batch.attention_mask is None else batch.attention_mask
        for index, position in enumerate(batch.positions):
            size = int(mask[index].sum())
            assert mask[index].tolist() == [1] * size + [0] * (mask.shape[1] - size)
            ids, labels = batch.input_ids[index].tolist(), batch.labels[index].tolist()
            assert ids[size:] == [PAD] * (len(ids) - size)
            assert labels[size:] == [IGNORED] * (len(ids) - size)
            content[position] = list(zip(ids[:size], labels[:size], strict=True))
    return content


def test_rows_are_padded_and_only_learned_tokens_have_labels() -> None:
    rows = [_row(0, [1, 2], [False, True]), _row(1, [3, 4, 5], [False, False, True])]
    (batch,) = micro_batches(rows, 2, PAD)
    assert batch.positions == (1, 0)
    assert batch.input_ids.tolist() == [[3, 4, 5], [1, 2, PAD]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 5], [IGNORED, 2, IGNORED]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert (batch.tokens, batch.learned_tokens) == (5, 2)


def test_without_padding_there_is_no_mask() -> None:
    batches = micro_batches([_row(n, [1, 2, 3]) for n in range(4)], 2, PAD)
    assert [batch.attention_mask for batch in batches] == [None, None]
    assert micro_batches([_row(0, [])], 1, PAD)[0].attention_mask is None


def test_empty_rows_count_nothing_and_attend_to_something() -> None:
    (batch,) = micro_batches([_row(0, []), _row(1, [])], 2, PAD)
    assert batch.input_ids.tolist() == [[PAD], [PAD]]
    assert (batch.tokens, batch.learned_tokens) == (0, 0)
    (mixed,) = micro_batches([_row(0, []), _row(1, [5, 6])], 2, PAD)
    assert mixed.attention_mask is not None
    assert mixed.attention_mask.tolist() == [[1, 1], [1, 0]]
    assert (mixed.tokens, mixed.learned_tokens) == (2, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_passes_do_not_depend_on_the_order_of_rows(size: int) -> None:
    chance = random.Random(size)
    rows = [_row(n, [n] * chance.randint(1, 5)) for n in range(8)]
    expected = micro_batches(rows, size, PAD)
    assert [len(batch.positions) for batch in expected[:-1]] == [size] * (len(expected) - 1)
    assert {p: [i for i, _ in row] for p, row in _content(expected).items()} == {
        row.position: row.ids.tolist() for row in rows
    }
    chance.shuffle(rows)
    again = micro_batches(rows, size, PAD)
    assert [batch.positions for batch in again] == [batch.positions for batch in expected]
    assert _content(again) == _content(expected)


def _table(rows: list[list[int]], chunk: int) -> pyarrow.Table:
    def column(values: list[list[object]], kind: pyarrow.DataType, size: int) -> object:
        parts = [values[i : i + size] for i in range(0, len(values), size)]
        return pyarrow.chunked_array(parts, pyarrow.list_(kind))

    return pyarrow.table(
        {
            "input_ids": column(rows, pyarrow.int32(), chunk),  # type: ignore[arg-type]
            "learned": column([[i % 2 == 1 for i in r] for r in rows], pyarrow.bool_(), len(rows)),
            "position": list(range(len(rows))),
        }
    )


@pytest.mark.parametrize("chunk", [2, 7])
def test_rows_are_read_from_slices_of_chunked_tables(chunk: int) -> None:
    ids = [[1, 2], [], [3, 4, 5], [6], [7, 8, 9, 10], [], [11, 12]]
    table = _table(ids, chunk)
    for start in range(len(ids)):
        for stop in range(start, len(ids) + 1):
            rows = rows_of(table.slice(start, stop - start))
            assert [row.ids.tolist() for row in rows] == ids[start:stop]
            assert [row.learned.tolist() for row in rows] == [
                [i % 2 == 1 for i in each] for each in ids[start:stop]
            ]
            assert [row.position for row in rows] == list(range(start, stop))


def test_rows_of_a_table_can_be_made_into_passes() -> None:
    (batch,) = micro_batches(rows_of(_table([[1, 2], [3]], 2)), 2, PAD)
    assert batch.labels.tolist() == [[1, IGNORED], [3, IGNORED]]
