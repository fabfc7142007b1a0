"""What is kept of a conversation, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2 as httpx
import pytest

from jobs.chat.api import ChatApi
from jobs.chat.session import Session, choose_model
from jobs.errors import RaysmithError, UserError
from tests.unit.jobs.chat.scripted import DONE, Script, event

Output = pytest.CaptureFixture[str]


@pytest.fixture
def session(api: ChatApi) -> Session:
    return Session(api, "first", ["first", "second"], {}, terminal=False)


def _answer(text: str) -> list[bytes | BaseException]:
    return [event(text), event("", "stop"), DONE]


def _said(script: Script) -> list[str]:
    return [message["content"] for message in script.asked[-1]["messages"]]


def test_questions_and_answers_add_up(session: Session, script: Script, capsys: Output) -> None:
    script.answers = [_answer("one"), _answer("two"), _answer("three")]
    session.say("/system be brief")
    for question in ("a", "  b ", "c"):
        assert session.say(question)
    assert _said(script) == ["be brief", "a", "one", "b", "two", "c"]
    assert [m["role"] for m in script.asked[-1]["messages"][:3]] == ["system", "user", "assistant"]
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_reset_forgets_all_but_the_system_message(session: Session, script: Script) -> None:
    script.answers = [_answer("one"), _answer("two"), _answer("three")]
    for line in ("/system be brief", "a", "/reset", "b"):
        session.say(line)
    assert _said(script) == ["be brief", "b"]
    for line in ("/system", "/reset", "c"):
        session.say(line)
    assert _said(script) == ["c"]


def test_another_model_goes_on_with_the_conversation(
    session: Session, script: Script, capsys: Output
) -> None:
    script.answers = [_answer("one"), _answer("two")]
    for line in ("a", "/model second", "b"):
        session.say(line)
    assert script.asked[-1]["model"] == "second"
    assert _said(script) == ["a", "one", "b"]
    with pytest.raises(UserError, match="no model 'third'"):
        session.say("/model third")
    session.say("/model")
    assert capsys.readouterr().err.endswith("  first\n* second\n")


@pytest.mark.parametrize(
    "failure", [[event("half")], httpx.Response(503), httpx.ConnectError("refused")]
)
def test_a_failed_question_leaves_no_trace(
    session: Session,
    script: Script,
    failure: httpx.Response | list[bytes | BaseException] | Exception,
) -> None:
    script.answers = [_answer("one"), failure, _answer("two")]
    session.say("a")
    with pytest.raises(RaysmithError):
        session.say("b")
    session.say("c")
    assert _said(script) == ["a", "one", "c"]


def test_a_stopped_answer_is_kept_as_far_as_it_went(
    session: Session, script: Script, capsys: Output
) -> None:
    script.answers = [[event("half"), KeyboardInterrupt()], [KeyboardInterrupt()], _answer("end")]
    for question in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            session.say(question)
    session.say("go on")
    assert _said(script) == ["a", "half", "go on"]
    assert capsys.readouterr().out == "half\nend\n"


def test_save_appends_rows_to_train_on(session: Session, script: Script, tmp_path: Path) -> None:
    file = tmp_path / "my chats.jsonl"
    with pytest.raises(UserError, match="nothing to save"):
        session.say(f"/save {file}")
    script.answers = [_answer("一")]
    for line in ("/system be brief", "a", f"/save {file}", f"/save {file}"):
        session.say(line)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert (
        rows
        == [
            {
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "一"},
                ]
            }
        ]
        * 2
    )
    for wrong in ("/save", f"/save {tmp_path / 'a.txt'}", f"/save {tmp_path / 'no' / 'a.jsonl'}"):
        with pytest.raises(UserError):
            session.say(wrong)


def test_commands(session: Session, capsys: Output) -> None:
    assert not session.say("/exit")
    session.say("/help")
    shown = capsys.readouterr()
    assert all(name in shown.err for name in ("/system", "/reset", "/save", "/model", "/exit"))
    assert shown.out == ""
    with pytest.raises(UserError, match="no command /sytem"):
        session.say("/sytem x")


def test_a_message_may_begin_with_a_slash(session: Session, script: Script) -> None:
    script.answers = [_answer("a folder")]
    session.say(" /etc?")
    assert _said(script) == ["/etc?"]


def test_an_answer_can_not_command_the_terminal(
    session: Session, script: Script, capsys: Output
) -> None:
    script.answers = [_answer("a\x1b]0;owned\x07\x9b2J\tb\nc\r\x08")]
    session.terminal = True
    session.say("?")
    assert capsys.readouterr().out == "a]0;owned2J\tb\nc\n"


def test_an_answer_that_was_cut_off_says_so(
    session: Session, script: Script, capsys: Output
) -> None:
    script.answers = [[event("a", "length"), DONE]]
    session.say("?")
    assert "cut off" in capsys.readouterr().err


def test_choose_model() -> None:
    assert choose_model(None, ["a", "b"]) == "a"
    assert choose_model("b", ["a", "b"]) == "b"
    assert choose_model("x", []) == "x"
    with pytest.raises(UserError, match="choose one of: a, b"):
        choose_model("x", ["a", "b"])
    with pytest.raises(UserError, match="--model"):
        choose_model(None, [])
