"""Alpaca: `instruction`, `input`, `output`, and optionally `system` and `history`.

Instruction and input are joined by a line end, as ms-swift and LLaMA-Factory do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.data.formats.text import answer, conversation, optional_text, text
from workloads.data.rows import Message

COLUMNS = "instruction, input (may be empty), output"


def matches(columns: Mapping[str, Any]) -> bool:
    """Whether the row has an instruction with an input or an output."""
    return "instruction" in columns and ("input" in columns or "output" in columns)


def messages(columns: Mapping[str, Any]) -> list[Message]:
    """The row as a conversation."""
    return [*_question(columns), {"role": "assistant", "content": text(columns, "output")}]


asks = matches


def prompt(columns: Mapping[str, Any]) -> list[Message]:
    """The row as a conversation that ends with the output, where there is one."""
    return [*_question(columns), *answer(columns.get("output"))]


def _question(columns: Mapping[str, Any]) -> list[Message]:
    instruction, addition = text(columns, "instruction"), optional_text(columns, "input")
    query = f"{instruction}\n{addition}" if addition else instruction
    system = optional_text(columns, "system")
    return conversation(system, columns.get("history"), query)
