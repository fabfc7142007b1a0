"""Ranges of numbers, against a plain set."""

from __future__ import annotations

from random import Random

from workloads.grpo.positions import Positions


def test_it_holds_what_a_set_holds_whatever_the_order() -> None:
    random = Random(0)
    for _ in range(20):
        plain: set[int] = set()
        positions = Positions()
        for _ in range(60):
            number = random.randrange(40)
            plain.add(number)
            positions.add(number)
            assert list(positions) == sorted(plain)
            assert len(positions) == len(plain)
        assert all((number in positions) == (number in plain) for number in range(-1, 41))
        assert list(Positions(positions.ranges())) == sorted(plain)


def test_neighbours_are_one_range() -> None:
    positions = Positions()
    for number in (5, 3, 4, 9, 8):
        positions.add(number)
    assert positions.ranges() == [[3, 5], [8, 9]]
    assert positions | {1} == {1, 3, 4, 5, 8, 9}
