"""A set of numbers that is mostly runs of neighbours: kept, and saved, as ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set


class Positions(Set[int]):
    """Takes as much memory as it has ranges, however many numbers they hold."""

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        """`ranges` are pairs of first and last, in rising order, with gaps between them."""
        pairs = [tuple(pair) for pair in ranges]
        self._firsts = [first for first, _ in pairs]
        self._lasts = [last for _, last in pairs]
        self._size = sum(last - first + 1 for first, last in pairs)

    def add(self, position: int) -> None:
        """Adds a number; it may be there already."""
        at = bisect_right(self._firsts, position)
        if at and position <= self._lasts[at - 1]:
            return
        self._size += 1
        joins_before = at > 0 and self._lasts[at - 1] + 1 == position
        joins_after = at < len(self._firsts) and self._firsts[at] - 1 == position
        if joins_before and joins_after:
            self._lasts[at - 1] = self._lasts.pop(at)
            del self._firsts[at]
        elif joins_before:
            self._lasts[at - 1] = position
        elif joins_after:
            self._firsts[at] = position
        else:
            self._firsts.insert(at, position)
            self._lasts.insert(at, position)

    def ranges(self) -> list[list[int]]:
        """First and last of each range, in rising order."""
        return [list(pair) for pair in zip(self._firsts, self._lasts, strict=True)]

    @classmethod
    def _from_iterable(cls, it: Iterable[int]) -> set[int]:  # type: ignore[override]
        return set(it)  # of the operators that Set brings

    def __contains__(self, position: object) -> bool:
        if not isinstance(position, int):
            return False
        at = bisect_right(self._firsts, position)
        return at > 0 and position <= self._lasts[at - 1]

    def __iter__(self) -> Iterator[int]:
        for first, last in zip(self._firsts, self._lasts, strict=True):
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return self._size
