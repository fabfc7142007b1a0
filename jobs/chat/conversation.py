"""What has been said: the system message, questions and whole answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from jobs.chat.api import Message
from jobs.errors import UserError


@dataclass
class Conversation:
    """Questions and answers in turn. A question without an answer never stays in it."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def messages(self, question: str) -> list[Message]:
        """What to send to get an answer to `question`."""
        return [*self._head(), *self.turns, {"role": "user", "content": question}]

    def add(self, question: str, answer: str) -> None:
        """Keeps a question and its answer."""
        self.turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.turns.clear()

    def save(self, file: Path) -> None:
        """Appends the conversation to a JSON Lines file, as one row that `dataset:` can read.

        Raises:
            UserError: the file is of another kind, or can't be written.
        """
        if file.suffix != ".jsonl":
            raise UserError(
                f"a conversation is saved as a row of JSON Lines, not as {file.name}",
                f"name a file that ends with .jsonl: /save {file.with_suffix('.jsonl')}",
            )
        row = json.dumps({"messages": [*self._head(), *self.turns]}, ensure_ascii=False)
        try:
            with file.open("a", encoding="utf-8") as opened:
                opened.write(row + "\n")
        except OSError as error:
            raise UserError(
                f"{file} can't be written: {error.strerror}", "name another file"
            ) from error

    def _head(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []
