"""`raysmith chat` in a terminal: a real process under a pseudo-terminal, on a real socket."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scripted_api import Lost, ScriptedApi

pytestmark = [pytest.mark.integration]

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A person at a terminal in which `raysmith chat` runs."""

    def __init__(self, url: str, folder: Path) -> None:
        self.fd, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "chat", url],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            # As a shell starts it, also where these tests are started with it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            cwd=folder,
            env={**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        os.close(inner)
        self.seen = ""

    def sees(self, text: str) -> str:
        """Waits for a text, and returns what was printed up to it."""
        deadline = time.monotonic() + 30
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear: {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                read = os.read(self.fd, 65536).decode(errors="replace")
                self.seen = _ESCAPES.sub("", self.seen + read).replace("\r\n", "\n")
        before, _, self.seen = self.seen.partition(text)
        return before

    def types(self, text: str) -> None:
        """Types a line."""
        os.write(self.fd, text.encode() + b"\n")

    def presses_ctrl_c(self) -> None:
        """As a terminal does it: to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)


@pytest.fixture
def api() -> ScriptedApi:
    return ScriptedApi()


@pytest.fixture
def terminal(api: ScriptedApi, tmp_path: Path) -> Iterator[Terminal]:
    with api.listening() as url:
        opened = Terminal(url, tmp_path)
        opened.sees("> ")
        yield opened
        opened.process.kill()
        opened.process.wait()
        os.close(opened.fd)


def _said(api: ScriptedApi) -> list[str]:
    return [message["content"] for message in api.asked[-1]["messages"]]


def test_a_conversation_of_several_lines(
    terminal: Terminal, api: ScriptedApi, tmp_path: Path
) -> None:
    terminal.types("/system be brief")
    terminal.sees("system message set")
    terminal.types('"""one')
    terminal.sees(". ")
    terminal.types("")
    terminal.types('two"""')
    terminal.sees("You said one\n\ntwo.\n")
    terminal.types("/save mine.jsonl")
    terminal.sees("saved to mine.jsonl")
    terminal.types("/exit")
    assert terminal.process.wait(10) == 0
    assert _said(api) == ["be brief", "one\n\ntwo"]
    assert len((tmp_path / "mine.jsonl").read_text().splitlines()) == 1


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal, api: ScriptedApi) -> None:
    def endless(question: str) -> Iterator[str]:
        while not api.hung_up.wait(0.02):
            yield "more "

    api.answer = endless
    terminal.types("talk")
    terminal.sees("more more")
    terminal.presses_ctrl_c()
    terminal.sees("(stopped)")
    assert api.hung_up.wait(5), "the service was not told"
    terminal.sees("> ")
    terminal.presses_ctrl_c()
    terminal.sees("Ctrl-D leaves")
    api.answer = lambda _: ["end"]
    terminal.types("go on")
    terminal.sees("end\n")
    # Before the prompt is there, the terminal and not the program would take the key.
    terminal.sees("> ")
    question, partial, then = _said(api)
    assert (question, then) == ("talk", "go on")
    assert partial.startswith("more more")
    os.write(terminal.fd, b"\x04")
    assert terminal.process.wait(10) == 0


def test_a_lost_connection_costs_one_question(terminal: Terminal, api: ScriptedApi) -> None:
    def lost(question: str) -> Iterator[str]:
        yield "half of it"
        raise Lost

    api.answer = lost
    terminal.types("one")
    terminal.sees("half of it\n")
    terminal.sees("error: the connection to")
    api.answer = lambda _: ["whole"]
    terminal.types("two")
    terminal.sees("whole\n")
    assert _said(api) == ["two"]
