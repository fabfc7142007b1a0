"""Reading text out of a row's columns, with a reason where it can't be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.data.rows import BadRow, Message


def text(columns: Mapping[str, Any], name: str) -> str:
    """The column's text, which must be there and not empty."""
    value = optional_text(columns, name)
    if not value.strip():
        raise BadRow(f"column {name!r} is {'empty' if name in columns else 'missing'}")
    return value


def optional_text(columns: Mapping[str, Any], name: str) -> str:
    """The column's text, or an empty one where it is missing or null."""
    value = columns.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"column {name!r} holds a {type(value).__name__}, not text")
    return value


def conversation(system: str, history: object, query: str) -> list[Message]:
    """Messages up to a query: an optional system text and earlier turns (pairs of texts) first."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for earlier, response in _pairs(history):
        messages.append({"role": "user", "content": earlier})
        messages.append({"role": "assistant", "content": response})
    return [*messages, {"role": "user", "content": query}]


def answer(value: object) -> list[Message]:
    """The turn that answers: a text or a number. None where the value is neither, or is empty."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        return []
    return [{"role": "assistant", "content": value}]


def _pairs(history: object) -> list[tuple[str, str]]:
    if not history:
        return []
    if not isinstance(history, list):
        raise BadRow(f"column 'history' holds a {type(history).__name__}, not a list of pairs")
    pairs = []
    for pair in history:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(t, str) for t in pair)
        ):
            raise BadRow("column 'history' must be a list of [query, response] pairs of texts")
        pairs.append((pair[0], pair[1]))
    return pairs
