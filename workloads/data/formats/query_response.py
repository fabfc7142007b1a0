"""Query and response: one question, one answer, and optionally `system` and `history`.

The usual other names of the two columns are understood, as in ms-swift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.data.formats.text import conversation, optional_text, text
from workloads.data.rows import BadRow, Message

COLUMNS = "query, response"

_QUERY = ("query", "prompt", "instruction", "question", "problem", "input")
_RESPONSE = (
    "response", "answer", "answers", "output", "target", "targets", "solution", "completion",
    "text",
)  # fmt: skip


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether the row has a column for the query and one for the response."""
    return bool(_first(columns, _QUERY) and _first(columns, _RESPONSE))


def messages(columns: Mapping[str, Any]) -> list[Message]:
    """The row as a conversation."""
    query, response = _first(columns, _QUERY), _first(columns, _RESPONSE)
    if not query or not response:
        missing = "query" if not query else "response"
        raise BadRow(f"column {missing!r} is missing; the row has {', '.join(columns) or 'none'}")
    turn = (text(columns, query), text(columns, response))
    return conversation(optional_text(columns, "system"), columns.get("history"), [turn])


def _first(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)
