"""From a record to the conversation that the model is trained on, or to a prompt for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jobs.spec.dataset import RowsSpec, SourceSpec
from workloads.data.formats import detect, detect_prompt, load_format
from workloads.data.rows import BadRow, Message, UnknownFormat

_PLACEHOLDER = re.compile(r"\{\{\s*(name|author)\s*\}\}", re.IGNORECASE)
_LISTED_COLUMNS = 12
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class RowReader:
    """Turns the rows of one source into conversations."""

    format: str | None
    columns: Mapping[str, str]
    system: str | None
    names: Mapping[str, str | tuple[str, str]]
    """What fills `{{NAME}}` and `{{AUTHOR}}`: a text, or two as (Chinese, English)."""

    @classmethod
    def of(cls, dataset: RowsSpec, source: SourceSpec) -> RowReader:
        """The reader for one source of a dataset."""
        names = {"name": dataset.model_name, "author": dataset.model_author}
        filled = {key: value for key, value in names.items() if value is not None}
        return cls(source.format, source.columns, dataset.system, filled)

    def messages(self, columns: Mapping[str, Any]) -> list[Message]:
        """The row as a conversation that ends with the assistant.

        Raises:
            BadRow: if the row can't be read as its format, or the assistant never speaks.
        """
        renamed = self.renamed(columns)
        messages = load_format(self.format or _known(detect(renamed), columns)).messages(renamed)
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if not messages:
            raise BadRow("no turn of the assistant to learn from")
        return self._completed(messages, renamed)

    def prompt(self, columns: Mapping[str, Any]) -> tuple[list[Message], str | None]:
        """The row as a conversation up to the model's turn, and the answer that it holds, if any.

        Raises:
            BadRow: if the row can't be read as its format, or the user never speaks.
        """
        renamed = self.renamed(columns)
        name = self.format or _known(detect_prompt(renamed), columns)
        messages = load_format(name).prompt(renamed)
        if not any(message["role"] == "user" for message in messages):
            raise BadRow("no turn of the user to answer")
        messages, answer = self._completed(messages, renamed), None
        while messages[-1]["role"] == "assistant":
            answer = answer or messages[-1]["content"]
            messages.pop()
        return messages, answer

    def renamed(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The row's columns by the names that the spec gives them."""
        # A column that the spec renames wins over one that bears the name already.
        kept = {name: value for name, value in columns.items() if name not in self.columns}
        return kept | {new: columns[name] for name, new in self.columns.items() if name in columns}

    def _completed(self, messages: list[Message], columns: Mapping[str, Any]) -> list[Message]:
        """The conversation with its system message, and with names filled in."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        _check(messages)
        return self._fill(messages, columns) if self.names else messages

    def _fill(self, messages: list[Message], columns: Mapping[str, Any]) -> list[Message]:
        tag = columns.get("lang") or columns.get("tag")
        # A `tag` may as well say something else of the row.
        tagged = tag in ("zh", "en")
        chinese = tag == "zh" if tagged else any(_CHINESE.search(m["content"]) for m in messages)

        def value(match: re.Match[str]) -> str:
            name = self.names.get(match[1].lower(), match[0])
            return name if isinstance(name, str) else name[0 if chinese else 1]

        return [
            {"role": m["role"], "content": _PLACEHOLDER.sub(value, m["content"])} for m in messages
        ]


def _known(name: str | None, columns: Mapping[str, Any]) -> str:
    if name is None:
        listed = ", ".join(map(str, islice(columns, _LISTED_COLUMNS))) or "none"
        raise UnknownFormat(f"its columns ({listed}) are of no known format")
    return name


def _check(messages: list[Message]) -> None:
    if messages[0]["role"] == "assistant":
        raise BadRow("the assistant speaks first, so there is no prompt that it answers")
    for message in messages:
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            half = ord(message["content"][error.start])
            raise BadRow(f"its text holds U+{half:04X}, half of a character") from error


def with_solution(columns: Mapping[str, Any], answer: str | None) -> dict[str, Any]:
    """The columns with a `solution`: the row's own one, or else its answer, or else None."""
    own = columns.get("solution")
    has_own = own is not None and str(own).strip()
    return {**columns, "solution": own if has_own else answer}


def has_placeholder(messages: list[Message]) -> bool:
    """Whether a `{{NAME}}` or `{{AUTHOR}}` was left in a conversation."""
    return any(_PLACEHOLDER.search(message["content"]) for message in messages)
