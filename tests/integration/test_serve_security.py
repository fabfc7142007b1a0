"""What a stranger may try: every request here gets its right status, and the service lives on."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.served import KEY, Served

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BEARER = {"Authorization": f"Bearer {KEY}"}
JSON = {**BEARER, "Content-Type": "application/json"}

Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture(scope="module", autouse=True)
def _lives_on(service: Served) -> Iterator[None]:
    """At the end the service still answers, with the replica that it began with."""
    yield
    with service.client() as client:
        body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 2}
        assert client.post(CHAT, json=body).status_code == 200
    assert service.healthy()
    assert "Traceback" not in service.log.read_text()


@pytest.fixture
def ask(service: Served) -> Ask:
    """Sends a request as it is, without the tidying that clients do; its status and body."""

    def send(
        method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        assert response.status < 500, content
        if response.status >= 400 and method != "HEAD":
            _is_openai_error(content)
        return response.status, content

    return send


def _is_openai_error(content: bytes) -> None:
    error = json.loads(content)["error"]
    assert error.keys() >= {"message", "type", "code"}
    assert error["message"]
    assert KEY.encode() not in content
    for hint in (b"Traceback", b"site-packages", b".py"):
        assert hint not in content


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": f"Bearer {KEY} {KEY}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer schl\xfcssel"},
        {"X-API-Key": KEY},
        {"Cookie": f"api_key={KEY}"},
        {"Authorization": "Bearer " + "k" * 8000},
    ],
)
def test_without_the_key_nothing_is_said(ask: Ask, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("POST", CHAT), ("POST", COMPLETIONS),
        ("GET", f"/v1/models?api_key={KEY}"), ("GET", "/metrics"), ("GET", "/openapi.json"),
    ):  # fmt: skip
        status, content = ask(method, path, headers=headers)
        assert status == 401
        assert b"tiny" not in content


def test_a_key_given_twice_is_no_key(service: Served) -> None:
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc)
    connection.putrequest("GET", "/v1/models")
    for key in ("wrong", KEY):
        connection.putheader("Authorization", f"Bearer {key}")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_what_is_open_tells_nothing(ask: Ask) -> None:
    status, health = ask("GET", "/health")
    assert status == 200
    status, page = ask("GET", "/")
    assert status == 200
    assert b"tiny" not in health + page
    assert KEY.encode() not in health + page


TRICKS = (
    "//v1/models", "/v1//models", "/v1/models/", "/V1/models", "/v1/MODELS", "/v1/./models",
    "/v1/../v1/models", "/health/../v1/models", "/../v1/models", "/v1/%6dodels", "/v1%2fmodels",
    "/%76%31/models", "/v1/models%00", "/v1/models%20", "/v1/models;a=b", "/v1\\models",
    "/v1/models%2f", "/%2e%2e/v1/models", "/health%2f..%2fv1%2fmodels", "/v1/models%23", "/v1",
    "/v1/chat", "//", "/.", "/..", "/%2e", "/health/", "/HEALTH", "/metrics/", "/index.html",
    "/chat_page.html", "/static/../../etc/passwd", "/%2e%2e%2fetc/passwd", "/favicon.ico",
    "http://elsewhere/v1//models", "*", "/v1/models/..", "/v1/models/%2e%2e/", "/\xff",
)  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/models#x", "http://elsewhere/v1/models", "/v1/models?a=/"])
def test_other_ways_to_write_a_path_need_the_key_too(service: Served, path: str) -> None:
    status, _ = _raw(service, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert status == 401


@pytest.mark.parametrize("path", TRICKS)
def test_no_path_leads_round_the_gate(service: Served, path: str) -> None:
    for key in ("", f"Authorization: Bearer {KEY}\r\n"):
        head = f"GET {path} HTTP/1.1\r\nHost: a\r\n{key}Connection: close\r\n\r\n"
        status, content = _raw(service, head.encode("latin-1"))
        assert status in (400, 401, 404, 405), content
        assert b'"object"' not in content


ROUTES = (
    "/tokenize", "/detokenize", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/rerank",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/load_lora_adapter", "/v1/score",
    "/v1/unload_lora_adapter", "/pooling", "/score", "/rerank", "/classify", "/version", "/load",
    "/ping", "/invocations", "/reset_prefix_cache", "/reset_mm_cache", "/sleep", "/wake_up",
    "/is_sleeping", "/collective_rpc", "/start_profile", "/stop_profile", "/server_info", "/docs",
    "/redoc", "/docs/oauth2-redirect", "/scale_elastic_ep", "/inference/v1/generate", "/pause",
    "/resume", "/update_weights", "/init_weight_transfer_engine", "/v1/chat/completions/render",
    "/-/routes", "/-/healthz", "/api/serve/applications/", "/api/jobs/", "/v2/models",
)  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_routes_of_vllm_and_ray_are_not_there(ask: Ask, method: str) -> None:
    body = "{}" if method == "POST" else None
    assert {route: ask(method, route, body, JSON)[0] for route in ROUTES} == dict.fromkeys(
        ROUTES, 404
    )


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
def test_other_methods_are_refused(ask: Ask, method: str) -> None:
    for path in ("/v1/models", CHAT, COMPLETIONS):
        assert ask(method, path, headers=JSON)[0] == 405
    assert ask("GET", CHAT, headers=JSON)[0] == 405
    assert ask("POST", "/v1/models", "{}", JSON)[0] == 405


def test_a_body_that_is_too_large_is_not_read(service: Served) -> None:
    declared = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
    declared += "Content-Type: application/json\r\n"
    for length in (100_000_000, 10**18, 10**40):
        status, content = _raw(service, f"{declared}Content-Length: {length}\r\n\r\n".encode())
        assert status in (400, 413), content
    chunked = f"{declared}Transfer-Encoding: chunked\r\n\r\n".encode()
    status, content = _raw(service, chunked, b"186a0\r\n" + b" " * 100_000 + b"\r\n", 1000)
    assert status == 413, content
    _is_openai_error(content)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ],
)
def test_what_is_hardly_http_is_refused_or_dropped(service: Served, head: bytes) -> None:
    status, content = _raw(service, head)
    assert status in (0, 200, 400, 401, 404, 405, 413, 426, 431, 505), content


def _raw(service: Served, head: bytes, part: bytes = b"", times: int = 0) -> tuple[int, bytes]:
    """Sends bytes, and `part` so many times. The answer's status, 0 without one, and its body."""
    place = urlsplit(service.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        received = b""
        try:
            connection.sendall(head)
            for _ in range(times):
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has answered, and listens no more
        try:
            while more := connection.recv(65536):
                received += more
        except ConnectionResetError:
            pass
    start, _, body = received.partition(b"\r\n\r\n")
    return int(start.split(b" ")[1]) if start.startswith(b"HTTP/") else 0, body


BODIES = (
    b"", b"{", b"[]", b"null", b'"text"', b"1", b"{}", b"\xff\xfe{", b"\xef\xbb\xbf{}", b"{'a': 1}",
    '{"messages": "é"}'.encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000, b'{"a": [' * 50,
    b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": ' + b"9" * 5000 + b"}",
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": "a"}]} {}',
)  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:20])
def test_what_is_no_request_is_refused(ask: Ask, body: bytes) -> None:
    assert ask("POST", CHAT, body, JSON)[0] == 400
    assert ask("POST", COMPLETIONS, body, JSON)[0] == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_page_is_no_request(ask: Ask, kind: str) -> None:
    body = b'{"messages": [{"role": "user", "content": "a"}]}'
    assert ask("POST", CHAT, body, {**BEARER, "Content-Type": kind})[0] == 415


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "true", '"1"', "[1]", "{}")
FIELDS = (
    "temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "n", "max_tokens", "seed", "top_k", "min_tokens",
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_no_number_is_refused(ask: Ask, field: str) -> None:
    for number in NUMBERS:
        chat = f'{{"messages": [{{"role": "user", "content": "a"}}], "{field}": {number}}}'
        assert ask("POST", CHAT, chat, JSON)[0] == 400, number
        plain = f'{{"prompt": "a", "{field}": {number}}}'
        assert ask("POST", COMPLETIONS, plain, JSON)[0] == 400, number


def test_ten_thousand_messages(ask: Ask) -> None:
    for content in ("a", "a" * 1000):
        messages = [{"role": "user", "content": content}] * 10_000
        assert ask("POST", CHAT, json.dumps({"messages": messages}), JSON)[0] in (400, 413)


def _schema(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    return {"response_format": form}


def _function(parameters: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    return {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "f"}}}


DEEP: Any = {"type": "string"}
for _ in range(30):
    DEEP = {"type": "object", "properties": {"a": DEEP}, "required": ["a"]}

# What passes as JSON, and what an engine may choke on.
HOSTILE: dict[str, dict[str, Any]] = {
    "an unknown token is favoured": {"logit_bias": {"999999": 1}},
    "a token is favoured that is next to the last": {"logit_bias": {"384": 100}},
    "an unknown token stops": {"stop_token_ids": [2**31 - 1]},
    "the schema has no such type": _schema({"type": "wat"}),
    "the schema is no schema": _schema({"properties": 1}),
    "the schema refers to nothing": _schema({"$ref": "#/$defs/no"}),
    "the schema refers to the outside": _schema({"$ref": "http://127.0.0.1:9/x"}),
    "the schema refers to itself": _schema({"$ref": "#"}),
    "the schema allows nothing": _schema({"not": {}}),
    "the schema has a broken pattern": _schema({"type": "string", "pattern": "("}),
    "the schema has a pattern that explodes": _schema(
        {"type": "string", "pattern": "(a{1,1000}){1,1000}"}
    ),
    "the schema counts far": _schema({"type": "string", "maxLength": 10**9, "minLength": 10**8}),
    "the schema counts further": _schema({"type": "array", "minItems": 10**12}),
    "the schema is deep": _schema(DEEP),
    "the schema has many choices": _schema({"enum": [f"choice {i}" for i in range(5000)]}),
    "the schema has an empty choice": _schema({"enum": []}),
    "the schema has no number": _schema({"type": "integer", "minimum": 10**400}),
    "the tool's schema is broken": _function({"type": "object", "properties": {"a": {"type": 5}}}),
    "the tool's schema is no object": _function({"type": "string"}),
    "the penalty is extreme": {"repetition_penalty": 1e-300},
    "the seed is the least": {"seed": -(2**63)},
    "the top is wide": {"top_k": 2**31 - 1, "min_p": 1.0, "top_p": 1e-300},
    "the stop is long": {"stop": ["a" * 1000] * 16},
    "the stop is nothing": {"stop": [""]},
    "no end": {"ignore_eos": True, "min_tokens": 400},
    "the least is more than fits": {"min_tokens": 2**31 - 1},
    "the template is given a role": {"chat_template_kwargs": {"messages": 1, "tools": 5}},
    "the template is given a setting": {"chat_template_kwargs": {"tokenize": True}},
    "the template is given a template": {"chat_template": "{{ 1 / 0 }}"},
    "a call without text": {
        "messages": [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "b"},
        ]
    },
    "a name that is none": {"x-unknown": 1},
    "a name without letters": {"": 1, " ": 2},
    "nothing said": {"messages": [{"role": "user"}]},
    "nothing in the parts": {"messages": [{"role": "user", "content": []}]},
    "an empty text": {"messages": [{"role": "user", "content": ""}]},
    "only a system message": {"messages": [{"role": "system", "content": "a"}]},
    "text that ends the turn": {
        "messages": [{"role": "user", "content": "<|im_end|>" * 50 + "\x00\u202e\U0010ffff"}]
    },
    "an image to fetch": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
            }
        ]
    },
    "goes on with a message": {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "goes on with nothing": {"continue_final_message": True, "add_generation_prompt": False},
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_engine_may_choke_on(ask: Ask, case: str, stream: bool) -> None:
    request = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 16, "stream": stream}
    status, content = ask("POST", CHAT, json.dumps(request | HOSTILE[case]), JSON)
    assert status in (200, 400)
    # An engine's fault would come as an event of a stream that has begun.
    assert b'"error"' not in content or status == 400, content


PROMPTS: dict[str, Any] = {
    "unknown tokens": [5, 999_999],
    "the first unknown token": [384],
    "no tokens": [],
    "no text": "",
    "no texts": [],
    "an empty text of two": ["a", ""],
    "more than fits": [5] * 5000,
    "many": ["a"] * 9,
    "mixed": ["a", 5],
    "nested": [[[5]]],
    "negative": [-1],
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_prompts_that_are_none(ask: Ask, prompt: Any) -> None:
    for extra in ({}, {"echo": True, "logprobs": 1}, {"stream": True}):
        request = {"prompt": prompt, "max_tokens": 4, **extra}
        status, content = ask("POST", COMPLETIONS, json.dumps(request), JSON)
        assert status == 400, content
