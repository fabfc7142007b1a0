"""What passes the gate, and what it answers by itself; behind it stands a backend made by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobs.spec.serve import LimitsSpec
from workloads.serve.answers import Refusal
from workloads.serve.channel import Head
from workloads.serve.chat_page import chat_page
from workloads.serve.gate import Gate
from workloads.serve.keys import Keys
from workloads.serve.replica import Call

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
JSON_TYPE = (b"content-type", b"application/json")


class Echo:
    """A backend that answers with what it was asked, and counts what is under way."""

    models = ("m", "adapter")

    def __init__(self, *, stream: bool = False, fail: Refusal | None = None) -> None:
        self.calls: list[Call] = []
        self.ongoing = 0
        self.hold: asyncio.Event | None = None
        self._stream = stream
        self._fail = fail

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[AsyncIterator[Head | bytes]]:
        self.calls.append(call)
        self.ongoing += 1
        try:
            yield self._parts(call)
        finally:
            self.ongoing -= 1

    async def _parts(self, call: Call) -> AsyncIterator[Head | bytes]:
        if not self._stream and self._fail:
            raise self._fail
        kind = "text/event-stream; charset=utf-8" if self._stream else "application/json"
        yield Head(200, kind)
        yield call.body
        if self.hold:
            await self.hold.wait()
        if self._fail:
            raise self._fail

    async def ready(self) -> bool:
        return True

    async def metrics(self) -> list[str]:
        return ["# TYPE vllm_tokens counter\nvllm_tokens_total 7\n"] * 2


class Client:
    """A connection: what is asked, and what is answered."""

    def __init__(
        self, gate: Gate, method: str, path: str, *headers: tuple[bytes, bytes], body: bytes = b""
    ) -> None:
        raw, _, query = path.encode().partition(b"?")
        self._scope = {
            "type": "http",
            "method": method,
            "path": raw.decode(),
            "raw_path": raw,
            "query_string": query,
            "headers": [(b"host", b"127.0.0.1:8000"), *headers],
        }
        self._gate = gate
        self.sent: list[dict[str, Any]] = []
        self.incoming: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
        self.gone = asyncio.Event()

    async def _receive(self) -> dict[str, Any]:
        if self.incoming:
            return self.incoming.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def run(self) -> "Client":
        """Waits for the answer."""
        await self._gate(self._scope, self._receive, self._send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def gate(backend: Echo | None = None, keys: Keys | None = None, **limits: Any) -> Gate:
    return Gate(backend or Echo(), keys, LimitsSpec(**limits))


def ask(through: Gate, method: str, path: str, *headers: tuple[bytes, bytes]) -> Client:
    return asyncio.run(Client(through, method, path, *headers).run())


def post(through: Gate, content: Any, *headers: tuple[bytes, bytes], path: str = CHAT) -> Client:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return asyncio.run(Client(through, "POST", path, JSON_TYPE, *headers, body=body).run())


def test_a_request_reaches_a_replica_as_it_was_checked() -> None:
    backend = Echo()
    answer = post(gate(backend), HELLO | {"user": "me"})
    assert (answer.status, json.loads(answer.body)) == (200, HELLO)
    assert backend.calls[0].path == CHAT
    assert backend.ongoing == 0


def test_the_model_is_meant_where_none_is_named() -> None:
    answer = post(gate(), {"messages": HELLO["messages"]})
    assert json.loads(answer.body)["model"] == "m"


def test_streams_are_passed_on_part_by_part() -> None:
    answer = post(gate(Echo(stream=True)), HELLO)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [message.get("more_body") for message in answer.sent[1:]] == [True, None]


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models", "/v1//models", "/v1/models/../models", "/V1/models", "/v1/models%2f",
        "/v1/%6dodels", "/v1/models/", "/v1/models;a", "/./v1/models", "/v1/models#", "/-/routes",
        "/-/healthz", "/docs", "/tokenize", "/detokenize", "/version", "/v1/embeddings",
        "/v1/responses", "/v1/load_lora_adapter", "/v1/chat/completions/batch", "/ping",
        "/v1/completions/render", "/server_info", "/reset_prefix_cache", "/invocations", "/load",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_refused(path: str, method: str) -> None:
    backend = Echo()
    answer = ask(gate(backend), method, path)
    assert answer.status in (404, 405)
    assert answer.error["type"] in ("not_found_error", "invalid_request_error")
    assert not backend.calls


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    answer = ask(gate(), method, CHAT)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_models_are_listed() -> None:
    listed = json.loads(ask(gate(), "GET", "/v1/models").body)
    assert [card["id"] for card in listed["data"]] == ["m", "adapter"]
    assert listed["data"][1]["parent"] == "m"
    assert json.loads(ask(gate(), "GET", "/v1/models/adapter").body) == listed["data"][1]
    assert ask(gate(), "GET", "/v1/models/other").error["code"] == "model_not_found"
    assert post(gate(), HELLO | {"model": "other"}).status == 404


BEARER = (b"authorization", b"Bearer right")


@pytest.mark.parametrize(
    "headers",
    [
        (), ((b"authorization", b""),), ((b"authorization", b"right"),),
        ((b"authorization", b"Bearer"),), ((b"authorization", b"Bearer wrong"),),
        ((b"authorization", b"Basic right"),), ((b"authorization", b"Bearer \xff\xfe"),),
        ((b"api-key", b"right"),), ((b"x-api-key", b"right"),), (BEARER, BEARER),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"),
     ("GET", "/v1/models?api_key=right"), ("GET", "/v1/models/m")],
)  # fmt: skip
def test_without_a_valid_key_nothing_opens(
    method: str, path: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    backend = Echo()
    answer = ask(gate(backend, Keys("right")), method, path, *headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.error["code"] == "invalid_api_key"
    assert not backend.calls


def test_a_valid_key_opens() -> None:
    locked = gate(keys=Keys("right"))
    assert post(locked, HELLO, BEARER).status == 200
    assert ask(locked, "GET", "/v1/models", (b"authorization", b"bearer right")).status == 200
    assert ask(locked, "GET", "/health").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 403),
     ("evil.example:8000", 403), ("127.0.0.1.evil.example", 403)],
)  # fmt: skip
def test_pages_of_others_can_t_ask_a_service_without_a_key(host: str, status: int) -> None:
    client = Client(gate(), "GET", "/v1/models")
    client._scope["headers"] = [(b"host", host.encode())]
    assert asyncio.run(client.run()).status == status


def test_bodies_are_read_no_further_than_their_limit() -> None:
    async def answers() -> None:
        small = gate(max_body="1KB")
        told = Client(small, "POST", CHAT, JSON_TYPE, (b"content-length", b"1001"))
        assert (await told.run()).status == 413
        assert told.incoming
        chunked = Client(small, "POST", CHAT, JSON_TYPE)
        part = {"type": "http.request", "body": b"x" * 600, "more_body": True}
        chunked.incoming = [part] * 9
        assert (await chunked.run()).status == 413
        assert len(chunked.incoming) == 7

    asyncio.run(answers())


def test_what_is_no_json_is_refused() -> None:
    assert post(gate(), b"{").status == 400
    body = json.dumps(HELLO).encode()
    for kind in (b"text/plain", b"application/x-www-form-urlencoded", b""):
        client = Client(gate(), "POST", CHAT, (b"content-type", kind), body=body)
        assert asyncio.run(client.run()).status == 415


def test_refusals_of_the_backend_are_told() -> None:
    full = Refusal(429, "too many", headers={"retry-after": "1"})
    answer = post(gate(Echo(fail=full)), HELLO)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    answer = post(gate(Echo(stream=True, fail=Refusal(502, "lost"))), HELLO)
    assert answer.status == 200
    assert json.loads(answer.body.rpartition(b"data: ")[2])["error"]["message"] == "lost"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_deadline(stream: bool) -> None:
    async def answer() -> tuple[Client, Echo]:
        backend = Echo(stream=stream)
        backend.hold = asyncio.Event()
        body = json.dumps(HELLO).encode()
        client = Client(gate(backend, request_timeout_s=0.05), "POST", CHAT, JSON_TYPE, body=body)
        return await client.run(), backend

    client, backend = asyncio.run(answer())
    assert client.status == (200 if stream else 408)
    assert b"timeout_error" in client.body
    assert backend.ongoing == 0


def test_a_client_that_goes_away_frees_its_replica() -> None:
    async def leave() -> Echo:
        backend = Echo(stream=True)
        backend.hold = asyncio.Event()
        client = Client(gate(backend), "POST", CHAT, JSON_TYPE, body=json.dumps(HELLO).encode())
        running = asyncio.create_task(client.run())
        while not client.sent:
            await asyncio.sleep(0)
        assert backend.ongoing == 1
        client.gone.set()
        await running
        await asyncio.sleep(0)
        return backend

    assert asyncio.run(leave()).ongoing == 0


def test_a_service_that_ends_takes_nothing_new() -> None:
    ending = gate()
    ending.is_draining = True
    assert post(ending, HELLO).status == 503
    assert ask(ending, "GET", "/health").status == 503
    assert ask(ending, "GET", "/v1/models").status == 200


def test_figures_tell_of_requests_and_replicas() -> None:
    through = gate()
    post(through, HELLO)
    post(through, b"{")
    ask(through, "GET", "/secret-path")
    text = ask(through, "GET", "/metrics").body.decode()
    assert f'raysmith_requests_total{{route="{CHAT}",status="200"}} 1.0' in text
    assert f'raysmith_requests_total{{route="{CHAT}",status="400"}} 1.0' in text
    assert 'raysmith_requests_total{route="other",status="404"} 1.0' in text
    assert "secret-path" not in text
    assert 'vllm_tokens_total{replica="1"} 7.0' in text


def test_the_page_is_sent_with_its_policy() -> None:
    answer = ask(gate(), "GET", "/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"].count("'sha256-") == 2
    assert answer.body == chat_page().body


def test_what_vllm_refuses_in_a_stream_has_the_status_of_a_refusal() -> None:
    class Refuses(Echo):
        async def _parts(self, call: Call) -> AsyncIterator[Head | bytes]:
            yield Head(200, "text/event-stream")
            yield b'data: {"error": {"message": "unknown token", "code": 400}}\n\n'
            yield b"data: [DONE]\n\n"

    answer = post(gate(Refuses()), HELLO | {"stream": True})
    assert (answer.status, answer.error["message"]) == (400, "unknown token")


def test_a_replica_that_is_lost_before_a_stream_begins_is_told_by_status() -> None:
    class Lost(Echo):
        async def _parts(self, call: Call) -> AsyncIterator[Head | bytes]:
            yield Head(200, "text/event-stream")
            raise Refusal(502, "lost")

    assert post(gate(Lost()), HELLO | {"stream": True}).status == 502


@pytest.mark.parametrize("name", ["x-unknown", "", " ", "a.b", "\ud800", "n" * 5000])
def test_a_field_of_any_name_is_refused(name: str) -> None:
    answer = post(gate(), HELLO | {name: 1})
    assert answer.status == 400
    assert len(answer.body) < 1000
