"""What the client makes of all that a service may say."""

from __future__ import annotations

import json

import httpx2 as httpx
import pytest

from jobs.chat.api import AnswerLost, ChatApi, Piece, Unreachable, is_loopback
from jobs.errors import UserError
from tests.unit.jobs.chat.scripted import DONE, URL, Script, event

QUESTION = [{"role": "user", "content": "?"}]


def _text(api: ChatApi) -> str:
    return "".join(piece.text for piece in api.stream("first", QUESTION, {"temperature": 0.0}))


def test_an_answer_comes_in_pieces_wherever_the_bytes_are_cut(api: ChatApi, script: Script) -> None:
    # U+2028 ends a line to Python, and not to the protocol.
    whole = event("Grüße\u2028") + b": a comment\r\n\r\n" + event("你好", "stop") + DONE
    script.answers = [[whole[i : i + 1] for i in range(len(whole))]]
    assert _text(api) == "Grüße\u2028你好"
    assert script.asked[0] == {
        "model": "first", "messages": QUESTION, "stream": True, "temperature": 0.0,
    }  # fmt: skip
    assert script.headers[0]["authorization"] == "Bearer a-key"


def test_no_key_means_no_header(script: Script) -> None:
    with ChatApi(URL, None, script) as api:
        assert api.models() == ["first", "second"]
    assert "authorization" not in script.headers[0]


def test_thinking_is_told_apart(api: ChatApi, script: Script) -> None:
    delta = {"choices": [{"delta": {"reasoning": "hm"}}]}
    thinks = b"data: " + json.dumps(delta).encode() + b"\n\n"
    script.answers = [[thinks, event("yes", "length"), DONE]]
    assert list(api.stream("first", QUESTION, {})) == [
        Piece(reasoning="hm"),
        Piece("yes", finish_reason="length"),
    ]


def test_half_a_character_does_not_reach_the_terminal(api: ChatApi, script: Script) -> None:
    script.answers = [
        [b'data: {"choices": [{"delta": {"content": "a\\ud83d"}, "finish_reason": "stop"}]}\n']
    ]
    assert _text(api) == "a�"


@pytest.mark.parametrize(
    "chunks",
    [
        [event("half")],
        [event("half"), DONE],
        [event("half"), httpx.RemoteProtocolError("peer closed connection")],
        [event("half"), httpx.ReadTimeout("slow")],
        [event("half"), b'data: {"error": {"message": "engine died", "code": 500}}\n\n'],
        [event("half"), b"data: {\n\n"],
        [event("half"), b"data: []\n\n"],
    ],
)
def test_an_answer_that_breaks_off_is_an_error(
    api: ChatApi, script: Script, chunks: list[bytes | BaseException]
) -> None:
    script.answers = [chunks]
    pieces = api.stream("first", QUESTION, {})
    assert next(pieces).text == "half"
    with pytest.raises(AnswerLost):
        list(pieces)


@pytest.mark.parametrize(
    ("status", "body", "expected", "words"),
    [
        (401, {"error": {"message": "bad key"}}, UserError, "refuses the API key: bad key"),
        (401, {"error": "Unauthorized"}, UserError, "Unauthorized"),
        (404, {"error": {"message": "no model x"}}, UserError, "no model x"),
        (422, {"detail": [{"msg": "wrong"}]}, UserError, "wrong"),
        (400, "plain words", UserError, "plain words"),
        (400, "\x1b[2Jand \x07noise", UserError, "[2Jand noise"),
        (429, {"error": {"message": "busy"}}, AnswerLost, "busy"),
        (503, {}, AnswerLost, "status 503"),
        (502, [], AnswerLost, "status 502"),
    ],
)
def test_a_refusal_says_why(
    api: ChatApi, script: Script, status: int, body: object, expected: type, words: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    script.answers = [httpx.Response(status, text=content)]
    with pytest.raises(expected) as caught:
        _text(api)
    assert words in str(caught.value)


def test_a_missing_key_is_told_from_a_wrong_one(script: Script) -> None:
    script.models = httpx.Response(401, json={"error": "Unauthorized"})
    with ChatApi(URL, None, script) as api, pytest.raises(UserError) as caught:
        api.models()
    assert "wants an API key" in str(caught.value)
    assert "RAYSMITH_API_KEY" in str(caught.value)


def test_nothing_listens(api: ChatApi, script: Script) -> None:
    script.models = httpx.ConnectError("Connection refused")
    with pytest.raises(Unreachable) as caught:
        api.models()
    assert caught.value.exit_code == 3
    assert URL in str(caught.value)


def test_another_kind_of_server_is_recognised(api: ChatApi, script: Script) -> None:
    script.models = httpx.Response(200, text="<html>")
    with pytest.raises(UserError, match="no OpenAI-compatible API"):
        api.models()
    script.answers = [httpx.Response(200, text="<html>")]
    with pytest.raises(UserError, match="no OpenAI-compatible API"):
        _text(api)


def test_a_service_need_not_tell_its_models(api: ChatApi, script: Script) -> None:
    script.models = httpx.Response(404)
    assert api.models() is None


@pytest.mark.parametrize("key", ["k3y\nb", "schlüssel", " k3y", "k3y\t"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(UserError) as caught:
        ChatApi(URL, key)
    assert key.strip() not in str(caught.value)


def test_loopback() -> None:
    assert is_loopback("http://127.0.0.1:1/v1")
    assert is_loopback("http://[::1]:1/v1")
    assert is_loopback("http://localhost/v1")
    assert not is_loopback("http://10.0.0.1/v1")
    assert not is_loopback("https://127.0.0.1.example.org/v1")
