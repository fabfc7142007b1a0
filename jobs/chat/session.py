"""One conversation with one model: questions, commands, and what is printed for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click

from jobs.chat.api import ChatApi, Piece, printable
from jobs.chat.conversation import Conversation
from jobs.errors import UserError

HELP = '''\
  /system TEXT  set the system message; without TEXT, remove it
  /model NAME   go on with another model; without NAME, list them
  /reset        forget the conversation
  /save FILE    append the conversation to a .jsonl file, as a row to train on
  /help         show this
  /exit         leave; so does Ctrl-D

  Ctrl-C stops an answer. """ begins and ends a message of several lines.'''


@dataclass
class Session:
    """What the person and the model have said, and how to ask for more."""

    api: ChatApi
    model: str
    models: Sequence[str]
    """Those that can be chosen; empty when the service does not tell."""
    sampling: Mapping[str, float]
    terminal: bool
    """Whether answers are printed for a person rather than for a program."""
    conversation: Conversation = field(default_factory=Conversation)

    def say(self, line: str) -> bool:
        """Obeys a command or answers a question; False when the person is done.

        Raises:
            RaysmithError: the service or the command failed. The conversation is as before.
            KeyboardInterrupt: the answer was stopped. What had been said of it is kept.
        """
        if not line.startswith("/"):
            self.ask(line)
            return True
        name, _, argument = line.partition(" ")
        if name == "/exit":
            return False
        command = _COMMANDS.get(name)
        if command is None:
            raise UserError(
                f"there is no command {name}",
                "see /help; a message that begins with a slash needs a space before it",
            )
        command(self, argument.strip())
        return True

    def ask(self, question: str) -> None:
        """Prints the answer to a question as it comes. Raises as `say` does."""
        question = question.strip()
        if not question:
            return
        messages = self.conversation.messages(question)
        answer: list[str] = []
        last = Piece()
        try:
            with closing(self.api.stream(self.model, messages, self.sampling)) as pieces:
                for piece in pieces:
                    answer.append(piece.text)
                    self._show(piece, last)
                    last = piece
        except BaseException as error:
            if text := "".join(answer):
                click.echo()
                if isinstance(error, KeyboardInterrupt):
                    self.conversation.add(question, text)
            raise
        click.echo()
        self.conversation.add(question, "".join(answer))
        if last.finish_reason == "length":
            self.tell("(cut off: the answer came to its greatest length)")

    def _show(self, piece: Piece, last: Piece) -> None:
        if piece.reasoning and self.terminal:
            click.secho(printable(piece.reasoning), nl=False, dim=True)
        if piece.text:
            gap = "\n\n" if last.reasoning and self.terminal else ""
            click.echo(gap + (printable(piece.text) if self.terminal else piece.text), nl=False)

    def set_system(self, text: str) -> None:
        """Sets the system message, or removes it."""
        self.conversation.system = text or None
        self.tell("system message set" if text else "no system message")

    def set_model(self, name: str) -> None:
        """Goes on with another model; lists them without a name. Raises UserError."""
        if not name:
            names = self.models or [self.model]
            self.tell("\n".join(f"{'*' if n == self.model else ' '} {n}" for n in names))
            return
        self.model = choose_model(name, self.models)
        self.tell(f"model: {name}")

    def reset(self, _: str) -> None:
        """Forgets what has been said."""
        self.conversation.reset()
        self.tell("conversation forgotten")

    def save(self, name: str) -> None:
        """Appends the conversation to a file. Raises UserError."""
        if not name:
            raise UserError("/save needs a file", "/save chat.jsonl")
        if not self.conversation.turns:
            raise UserError("there is nothing to save yet")
        file = Path(name).expanduser()
        self.conversation.save(file)
        self.tell(f"saved to {file}")

    def help(self, _: str) -> None:
        """Shows the commands."""
        self.tell(HELP)

    def tell(self, text: str) -> None:
        """Says something that is no answer: never on standard output, which is the model's."""
        click.secho(printable(text), dim=True, err=True)


_COMMANDS: Mapping[str, Callable[[Session, str], None]] = {
    "/system": Session.set_system,
    "/model": Session.set_model,
    "/reset": Session.reset,
    "/save": Session.save,
    "/help": Session.help,
}


def choose_model(name: str | None, models: Sequence[str]) -> str:
    """The model of that name, or the first one. Raises UserError when there is none."""
    if name is None and models:
        return models[0]
    if name is None:
        raise UserError("the service does not tell which models it has", "name one: --model NAME")
    if models and name not in models:
        raise UserError(f"the service has no model {name!r}", f"choose one of: {', '.join(models)}")
    return name
