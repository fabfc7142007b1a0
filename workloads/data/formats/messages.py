"""Messages: a list of `{role, content}`, as the chat APIs have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.data.formats.turns import listed
from workloads.data.rows import Message

COLUMNS = "messages: [{role, content}, ...]"

_ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {"developer": "system"}


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether the row has a `messages` column."""
    return "messages" in columns


def messages(columns: Mapping[str, Any]) -> list[Message]:
    """The row as a conversation."""
    return listed(columns, "messages", "role", "content", _ROLES)


asks, prompt = matches, messages
