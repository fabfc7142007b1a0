"""The command with its input from a pipe."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest
from click.testing import CliRunner, Result

from jobs.chat.api import ChatApi
from jobs.cli import cli
from tests.unit.jobs.chat.scripted import DONE, Script, event


@pytest.fixture(autouse=True)
def _scripted(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(url: str, key: str | None) -> ChatApi:
        return ChatApi(url, key, script)

    monkeypatch.setattr("jobs.chat.run.ChatApi", connect)


def _chat(lines: str | bytes, *arguments: str, **environment: str) -> Result:
    command = ["chat", "127.0.0.1:8000", *arguments]
    return CliRunner().invoke(cli, command, input=lines, env=environment)


def _answers(*texts: str) -> list[Any]:
    return [[event(text, "stop"), DONE] for text in texts]


def test_each_line_is_a_question(script: Script) -> None:
    script.answers = _answers("1", "2", "3")
    result = _chat('a\n\n"""b\n\n /c"""\n/reset\nd', "--temperature", "0", "--max-tokens", "9")
    assert (result.exit_code, result.stdout) == (0, "1\n2\n3\n")
    said = [[m["content"] for m in request["messages"]] for request in script.asked]
    assert said == [["a"], ["a", "1", "b\n\n /c"], ["d"]]
    assert (script.asked[0]["temperature"], script.asked[0]["max_tokens"]) == (0, 9)


def test_what_is_piped_need_not_be_text(script: Script) -> None:
    script.answers = _answers("1")
    assert _chat(b"caf\xe9\r\n").exit_code == 0
    assert script.asked[0]["messages"] == [{"role": "user", "content": "caf�"}]


def test_the_first_error_ends_a_pipe_with_its_exit_code(script: Script) -> None:
    script.answers = [*_answers("1"), httpx.Response(503), *_answers("3")]
    result = _chat("a\nb\nc\n")
    assert (result.exit_code, result.stdout) == (1, "1\n")
    assert "status 503" in result.stderr
    assert len(script.asked) == 2


def test_exit_ends_a_pipe(script: Script) -> None:
    script.answers = _answers("1")
    result = _chat("a\n/exit\nb\n")
    assert (result.exit_code, result.stdout) == (0, "1\n")


def test_the_key_comes_from_the_environment(script: Script) -> None:
    _chat("", RAYSMITH_API_KEY="one")
    _chat("", "--api-key-env", "MINE", MINE="two")
    assert [headers["authorization"] for headers in script.headers] == ["Bearer one", "Bearer two"]
    unset = _chat("", "--api-key-env", "NOT_SET")
    assert unset.exit_code == 2
    assert "NOT_SET is not set" in unset.stderr


def test_an_unknown_model_is_refused_before_any_question(script: Script) -> None:
    result = _chat("a\n", "--model", "third")
    assert (result.exit_code, script.asked) == (2, [])
    assert "choose one of: first, second" in result.stderr


def test_nothing_listens(script: Script) -> None:
    script.models = httpx.ConnectError("Connection refused")
    result = _chat("a\n")
    assert result.exit_code == 3
    assert "nothing answers at http://127.0.0.1:8000/v1" in result.stderr


def test_a_key_sent_in_the_clear_is_mentioned(script: Script) -> None:
    command = ["chat", "http://example.org"]
    result = CliRunner().invoke(cli, command, input="", env={"RAYSMITH_API_KEY": "k"})
    assert "unencrypted" in result.stderr
