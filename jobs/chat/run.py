"""`raysmith chat`: puts the API, the conversation and the terminal together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import TextIOWrapper

import click

from jobs.chat.api import ChatApi, is_loopback
from jobs.chat.conversation import Conversation
from jobs.chat.session import Session, choose_model
from jobs.errors import RaysmithError

_QUOTES = '"""'


def chat(
    url: str,
    key: str | None,
    model: str | None,
    system: str | None,
    sampling: Mapping[str, float],
) -> None:
    """Talks to a model until the input ends.

    From a terminal it prompts and goes on after errors. From a pipe it takes each line for a
    question, and ends with the first error.

    Raises:
        RaysmithError: the service can't be asked.
        KeyboardInterrupt: an answer from a pipe was stopped.
    """
    prompted = sys.stdin.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is typed or piped need not be valid UTF-8
    with ChatApi(url, key) as api:
        models = api.models() or []
        session = Session(
            api,
            choose_model(model, models),
            models,
            sampling,
            sys.stdout.isatty(),
            Conversation(system),
        )
        if key and url.startswith("http:") and not is_loopback(url):
            session.tell("the API key goes over the network unencrypted: use https")
        if prompted:
            _talk(session)
        else:
            for message in _messages(sys.stdin):
                if not session.say(message):
                    break


def _talk(session: Session) -> None:
    with suppress(ImportError):
        # Its import alone gives `input` line editing and a history.
        import readline  # noqa: F401
    session.tell(f"{session.model} at {session.api.url}; /help shows the commands\n")
    while True:
        try:
            message = next(_messages(_typed()), None)
        except KeyboardInterrupt:
            session.tell("\n/exit or Ctrl-D leaves")
            continue
        try:
            if message is None or not session.say(message):
                return
        except RaysmithError as error:
            click.secho(f"error: {error}", fg="red", err=True)
        except KeyboardInterrupt:
            session.tell("(stopped)")


def _typed() -> Iterator[str]:
    """The lines that a person types. Ends with Ctrl-D."""
    prompt = "> "
    while True:
        # `input` writes its prompt to standard output, which may be a file.
        if not sys.stdout.isatty():
            click.echo(prompt, nl=False, err=True)
        try:
            line = input(prompt if sys.stdout.isatty() else "")
        except EOFError:
            click.echo(err=True)
            return
        yield line
        prompt = ". " if line else prompt


def _messages(lines: Iterable[str]) -> Iterator[str]:
    """Joins the lines from one lot of three quotes to the next; leaves out empty messages."""
    message: list[str] | None = None
    for each in lines:
        line = each.rstrip("\r\n")
        if message is None and not line.startswith(_QUOTES):
            message, whole = [line], True
        else:
            begins, message = message is None, message or []
            text = line.removeprefix(_QUOTES) if begins else line
            whole = text.rstrip().endswith(_QUOTES)
            message.append(text.rstrip().removesuffix(_QUOTES) if whole else text)
        if whole:
            if text := "\n".join(message).strip("\n"):
                yield text
            message = None
    if message:
        yield "\n".join(message)
