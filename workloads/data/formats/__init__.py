"""Row layouts. A new one is a module with what `Format` names, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from workloads.data.rows import Message

FORMATS = {
    "messages": "workloads.data.formats.messages",
    "sharegpt": "workloads.data.formats.sharegpt",
    "alpaca": "workloads.data.formats.alpaca",
    "query-response": "workloads.data.formats.query_response",
}
"""In the order in which a row's columns are tried."""


class Format(Protocol):
    """How a row is laid out."""

    COLUMNS: str
    """The columns that make the format, in words."""

    def matches(self, columns: Mapping[str, Any]) -> bool:
        """Whether a row with these columns is of this format."""

    def messages(self, columns: Mapping[str, Any]) -> list[Message]:
        """The row as a conversation.

        Raises:
            BadRow: if a column is missing, empty or of another type.
        """

    def asks(self, columns: Mapping[str, Any]) -> bool:
        """Whether a row with these columns is of this format, but for an answer it may lack."""

    def prompt(self, columns: Mapping[str, Any]) -> list[Message]:
        """The row as a conversation that ends with the answer, where there is one.

        Raises:
            BadRow: if a column other than the answer's is missing, empty or of another type.
        """


def load_format(name: str) -> Format:
    """A format by name, one of `FORMATS`."""
    return cast(Format, import_module(FORMATS[name]))


def detect(columns: Mapping[str, Any]) -> str | None:
    """The name of the first format that a row's columns match."""
    return next((name for name in FORMATS if load_format(name).matches(columns)), None)


def detect_prompt(columns: Mapping[str, Any]) -> str | None:
    """The name of the first format that a row's columns match, but for an answer it may lack."""
    return next((name for name in FORMATS if load_format(name).asks(columns)), None)


def known_columns() -> str:
    """All formats and their columns, for an error's remedy."""
    return "; ".join(f"{name}: {load_format(name).COLUMNS}" for name in FORMATS)
