"""Query and response: one question, one answer, and optionally `system` and `history`.

The usual other names of the two columns are understood, as in ms-swift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.data.formats.text import answer, conversation, optional_text, text
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
    return [*_question(columns, query), {"role": "assistant", "content": text(columns, response)}]


def asks(columns: Mapping[str, Any]) -> bool:
    """Whether the row has a column for the query."""
    return _first(columns, _QUERY) is not None


def prompt(columns: Mapping[str, Any]) -> list[Message]:
    """The row as a conversation that ends with the response, where there is one."""
    query, response = _first(columns, _QUERY), _first(columns, _RESPONSE)
    if not query:
        raise BadRow(f"column 'query' is missing; the row has {', '.join(columns) or 'none'}")
    return [*_question(columns, query), *answer(columns.get(response or ""))]


def _question(columns: Mapping[str, Any], query: str) -> list[Message]:
    system = optional_text(columns, "system")
    return conversation(system, columns.get("history"), text(columns, query))


def _first(columns: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)
