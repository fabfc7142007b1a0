"""How many rows are held out, which rows are trained on, and how often."""

import numpy as np
import pytest

from workloads.data.selection import HELD_OUT, held_out_rows, select


@pytest.mark.parametrize(
    ("sizes", "held_out", "counts"),
    [
        ([100, 50], 0, [0, 0]),
        ([100, 50], 0.1, [10, 5]),
        ([100, 3], 0.01, [1, 1]),
        ([300], 0.29, [87]),
        ([100, 50], 15, [10, 5]),
        ([1, 1, 1], 2, [1, 0, 1]),
        ([10, 0], 4, [4, 0]),
    ],
)
def test_rows_are_held_out_by_share_or_number(
    sizes: list[int], held_out: float, counts: list[int]
) -> None:
    assert held_out_rows(sizes, held_out) == counts


def test_a_number_held_out_is_kept_to_over_many_sources() -> None:
    sizes = [3, 1, 4, 1, 5, 9, 2, 6]
    assert all(sum(held_out_rows(sizes, number)) == number for number in range(1, sum(sizes)))


@pytest.mark.parametrize("wanted", [1, 7, 10])
def test_fewer_rows_are_taken_at_most_once(wanted: int) -> None:
    repeats = select(10, wanted, 0, (42, 0))
    assert set(repeats.tolist()) <= {0, 1}
    assert repeats.sum() == wanted


def test_more_rows_are_whole_copies_and_a_rest() -> None:
    repeats = select(10, 25, 0, (42, 0))
    assert sorted(repeats.tolist()) == [2] * 5 + [3] * 5


@pytest.mark.parametrize("wanted", [5, 10, 33])
def test_rows_held_out_are_never_trained_on(wanted: int) -> None:
    repeats = select(10, wanted, 3, (42, 0))
    assert (repeats == HELD_OUT).sum() == 3
    assert repeats[repeats > 0].sum() == wanted - 3


def test_the_choice_follows_from_the_seed() -> None:
    first = select(1000, 100, 10, (42, 0))
    assert np.array_equal(first, select(1000, 100, 10, (42, 0)))
    assert not np.array_equal(first, select(1000, 100, 10, (43, 0)))
    assert not np.array_equal(first, select(1000, 100, 10, (42, 1)))


def test_a_larger_sample_holds_the_same_rows_out() -> None:
    small, large = select(100, 50, 5, (42, 0)), select(100, 250, 5, (42, 0))
    assert np.array_equal(small == HELD_OUT, large == HELD_OUT)


def test_without_a_seed_rows_come_in_order() -> None:
    assert select(6, 4, 1, None).tolist() == [HELD_OUT, 1, 1, 1, 0, 0]


def test_holding_all_rows_out_leaves_none() -> None:
    assert select(2, 2, 5, None).tolist() == [HELD_OUT, HELD_OUT]
