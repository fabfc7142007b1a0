"""The tree of values that a user wrote: paths into it, and where each value was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from jobs.errors import Problem

KeyPath: TypeAlias = tuple[str | int, ...]
"""The way from the top of the file to a value: keys, and indices into lists."""

Value: TypeAlias = Any
"""None, bool, int, float, str, or lists and string-keyed dicts of these."""

SET_OPTION = "--set"
"""Stands for the file of values that came from the command line."""


@dataclass(frozen=True)
class Position:
    """Where a value was written: a place in a file, or a `--set` option, which has no lines."""

    file: str
    line: int | None = None
    column: int | None = None
    layer: Literal["spec", "set"] = "spec"


@dataclass(frozen=True)
class Positions:
    """Where each value and each key of a tree was written."""

    values: dict[KeyPath, Position]
    keys: dict[KeyPath, Position]

    def of(self, path: KeyPath) -> Position:
        """The place of a value, or of the nearest section around it that was written."""
        for length in range(len(path), 0, -1):
            if found := self.values.get(path[:length]):
                return found
        return self.values[()]

    def of_key(self, path: KeyPath) -> Position:
        """The place of a key; the value's where it has none, as in a list."""
        return self.keys.get(path) or self.of(path)

    def forget(self, path: KeyPath) -> None:
        """Drops everything at and below a path, since something else takes its place."""
        for places in (self.values, self.keys):
            for known in [known for known in places if known[: len(path)] == path]:
                del places[known]


@dataclass(frozen=True)
class Document:
    """A parsed file."""

    value: Value
    positions: Positions
    plain: set[KeyPath]
    """Text that stood without quotes."""
    problems: list[Problem] = field(default_factory=list)
    refused: set[KeyPath] = field(default_factory=set)
    """Values that were left out, with the reason among the problems."""
    root: Any = None
    """The spec class that the file is to be; a job file when None."""

    def problem(
        self, path: KeyPath, message: str, remedy: str | None = None, *, at_key: bool = False
    ) -> Problem:
        """A problem with the value at a path, or with its key."""
        place = self.positions.of_key(path) if at_key else self.positions.of(path)
        return problem_at(place, path, message, remedy)


def problem_at(place: Position, path: KeyPath, message: str, remedy: str | None = None) -> Problem:
    """A problem at a place."""
    name = dotted(path)
    shown = "" if place.file == f"{SET_OPTION} {name}" else name
    return Problem(message, remedy, shown, place.file, place.line, place.column)


def dotted(path: KeyPath) -> str:
    """A path as people write it: `stages.sft.dataset.train[0].path`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def split_dotted(text: str, tree: Value) -> KeyPath:
    """The path that a text such as `a.b[0].c` names.

    Numbers are indices where `tree` has lists. A key of the tree that has dots in it, such as
    `tuner.rank`, is found whole.
    """
    path: list[str | int] = []
    value, rest = tree, _parts(text)
    while rest:
        size, key = _first_key(rest, value)
        path.append(key)
        value, rest = child(value, key), rest[size:]
    return tuple(path)


def _parts(text: str) -> list[str]:
    return re.sub(r"\[(\d+)\]", r".\1", text).split(".")


def _first_key(parts: list[str], value: Value) -> tuple[int, str | int]:
    """How many parts of a path are the next key, and that key; the longest one that is there."""
    if isinstance(value, list):
        return 1, int(parts[0]) if parts[0].isdecimal() else parts[0]
    if isinstance(value, dict):
        split = {tuple(_parts(key)): key for key in value if not key.isidentifier()}
        fits = [known for known in split if tuple(parts[: len(known)]) == known]
        if fits:
            longest = max(fits, key=len)
            return len(longest), split[longest]
    return 1, parts[0]


def child(value: Value, key: str | int) -> Value:
    """What lies under a key or index; None where nothing does."""
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    return None


def value_at(tree: Value, path: KeyPath) -> Value:
    """What lies at a path; None where nothing does."""
    for key in path:
        tree = child(tree, key)
    return tree


def paths(tree: Value, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of everything in a tree, sections before what is in them."""
    if path:
        yield path
    if isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from paths(value, (*path, key))


def leaves(tree: Value, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Value]]:
    """Every scalar of a tree, with its path."""
    if isinstance(tree, (dict, list)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def replace(tree: Value, path: KeyPath, value: Value) -> None:
    """Puts another value in the place of the one at a path that is not the top."""
    value_at(tree, path[:-1])[path[-1]] = value
