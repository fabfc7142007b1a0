"""ShareGPT: a list of `{from, value}` under `conversations`, and optionally `system`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.data.formats.text import optional_text
from workloads.data.formats.turns import listed
from workloads.data.rows import Message

COLUMNS = "conversations: [{from, value}, ...]"

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether the row has a `conversations` or `conversation` column."""
    return "conversations" in columns or "conversation" in columns


def messages(columns: Mapping[str, Any]) -> list[Message]:
    """The row as a conversation."""
    column = "conversations" if "conversations" in columns else "conversation"
    turns = listed(columns, column, "from", "value", _ROLES)
    system = optional_text(columns, "system")
    if system and turns[0]["role"] != "system":
        return [{"role": "system", "content": system}, *turns]
    return turns


asks, prompt = matches, messages
