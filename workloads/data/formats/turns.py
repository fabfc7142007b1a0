"""Reading a list of turns, the core of the two conversational formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from workloads.data.rows import BadRow, Message, Role


def listed(
    columns: Mapping[str, Any], column: str, role_key: str, text_key: str, roles: Mapping[str, str]
) -> list[Message]:
    """The turns listed in a column, their roles in our words.

    Raises:
        BadRow: if the column is no list of turns, a turn lacks a part, or a role is unknown.
    """
    turns = columns.get(column)
    if not isinstance(turns, list) or not turns:
        raise BadRow(f"column {column!r} is missing or no list of turns")
    return [_turn(turn, number, role_key, text_key, roles) for number, turn in enumerate(turns, 1)]


def _turn(
    turn: object, number: int, role_key: str, text_key: str, roles: Mapping[str, str]
) -> Message:
    if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
        raise BadRow(f"turn {number} must be an object with {role_key!r} and {text_key!r}")
    role, content = turn[role_key], turn[text_key]
    if not isinstance(role, str) or role not in roles:
        raise BadRow(f"turn {number} has the role {role!r}; known are {', '.join(roles)}")
    if not isinstance(content, str):
        raise BadRow(f"turn {number} has no text in {text_key!r}")
    if roles[role] == "assistant" and not content.strip():
        raise BadRow(f"turn {number} of the assistant is empty")
    return {"role": cast(Role, roles[role]), "content": content}
