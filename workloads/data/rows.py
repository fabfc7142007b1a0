"""What a dataset is made of on its way to tokens: chunks of files, records, messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

from jobs.errors import Problem, SpecError
from jobs.spec.dataset import DatasetSpec, PromptRowsSpec

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Chunk:
    """A part of a file that one task reads. `start` and `stop` are the reader's own units."""

    file: str
    reader: str
    start: int
    stop: int
    first_line: int
    """1-based line in the file of the chunk's first byte."""
    first_row: int
    """0-based number, in the file, of the chunk's first row."""
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Record:
    """One row as it stands in a file."""

    line: int
    """1-based line in the file; for formats without lines, the 1-based row."""
    columns: Mapping[str, Any]


class Reader(Protocol):
    """A file type. It reads rows and where they stand; it knows nothing of what they mean."""

    def chunks(self, file: str) -> Iterator[Chunk]:
        """Cuts the file into chunks of bounded size.

        Raises:
            SpecError: if the file can't be read as this type.
        """

    def read(self, chunk: Chunk) -> Iterator[Record]:
        """The chunk's rows, in order.

        Raises:
            SpecError: at a row that is malformed.
        """


class BadRow(Exception):
    """A row that can't become a conversation; the message says why."""


class UnknownFormat(BadRow):
    """A row whose columns are of no known format."""


def malformed(file: str, line: int, column: int | None, reason: str, remedy: str) -> SpecError:
    """The error for a file whose very syntax is broken."""
    return SpecError([Problem(reason, remedy, file=file, line=line, column=column)])


REPORTED_ROWS = 10
"""How many rows that can't be used are named one by one."""


@dataclass(frozen=True)
class LeftOut:
    """A row that could not be used."""

    file: str
    line: int
    reason: str


def mend_rows(*, strict: bool) -> str:
    """The remedy for rows that can't be used."""
    return "mend or delete the row" + (
        "; without `strict: true` rows like this are left out" if strict else ""
    )


def bad_row_problems(rows: Sequence[LeftOut], count: int, remedy: str) -> list[Problem]:
    """The error for rows that can't be used, the first of them by name."""
    problems = [Problem(row.reason, remedy, file=row.file, line=row.line) for row in rows]
    if count > len(rows):
        more = f"and {count - len(rows):,} more rows like these"
        problems.append(Problem(more, file=rows[-1].file, line=rows[-1].line))
    return problems


class Remains(Protocol):
    """What became of a dataset's rows that are not among those that are left."""

    @property
    def bad_rows(self) -> int:
        """Rows that can't be used."""

    @property
    def first_bad(self) -> Sequence[LeftOut]:
        """The first of them."""

    @property
    def too_long(self) -> int:
        """Rows that were dropped for their length."""


def check_left(
    rows: int, remains: Remains, dataset: DatasetSpec | PromptRowsSpec, nothing: str, remedy: str
) -> None:
    """Checks that rows are left, and that none was bad where the dataset is strict.

    Raises:
        SpecError: if not; `nothing` and `remedy` are told where no row was bad, and none is left.
    """
    if remains.bad_rows and (dataset.strict or not rows):
        mend = mend_rows(strict=dataset.strict)
        raise SpecError(bad_row_problems(remains.first_bad, remains.bad_rows, mend))
    if not rows:
        if remains.too_long:
            longer = f"longer than max_length {dataset.max_length}"
            nothing += f": all {remains.too_long:,} are {longer}"
        raise SpecError([Problem(nothing, remedy, path=f"dataset.{dataset.main_field}")])
