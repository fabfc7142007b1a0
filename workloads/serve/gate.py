"""The gate: the one way to the replicas, an ASGI application that knows a few routes.

    client -> gate -> Serve's handle -> a replica's queue -> vLLM

It refuses by itself whatever is no proper request: unknown paths, missing keys, bodies that are
too large or no valid JSON, parameters that vLLM would choke on. Neither Ray nor vLLM listens on a
port of its own that clients could reach.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.spec.serve import LimitsSpec, is_loopback
from workloads.serve.answers import Refusal, Send, error_event, send_head, send_whole
from workloads.serve.bodies import Receive, Scope, disconnected, read_json_body
from workloads.serve.channel import Head
from workloads.serve.chat_page import chat_page
from workloads.serve.completion_requests import checked_request, encoded
from workloads.serve.keys import Keys
from workloads.serve.metrics import CONTENT_TYPE, GateMetrics
from workloads.serve.openapi import openapi
from workloads.serve.replica import Call

log = logging.getLogger(__name__)

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

_EVENTS = "text/event-stream"
_ERROR_EVENT = b'data: {"error"'
_OPEN = ("/", "/health")
"""What needs no key."""


class Backend(Protocol):
    """What stands behind the gate."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names that clients may ask for, the model's own first."""

    async def ready(self) -> bool:
        """Whether a replica is there to answer."""

    def ask(self, call: Call) -> AbstractAsyncContextManager[AsyncIterator[Head | bytes]]:
        """The head and the parts of an answer. Leaving the block gives the request up.

        Raises:
            Refusal: when the queue is full, or the replica was lost.
        """

    async def metrics(self) -> list[str]:
        """What each replica has to tell Prometheus."""


@dataclass
class Gate:
    """The application. `keys` is None where everyone may ask."""

    backend: Backend
    keys: Keys | None
    limits: LimitsSpec
    is_draining: bool = False
    figures: GateMetrics = field(default_factory=GateMetrics)

    def __post_init__(self) -> None:
        self._created = int(time.time())
        self._routes: dict[str, tuple[str, Handler]] = {
            "/": ("GET", self._page),
            "/health": ("GET", self._health),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._openapi),
            "/v1/models": ("GET", self._models),
            "/v1/chat/completions": ("POST", self._complete),
            "/v1/completions": ("POST", self._complete),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        # As it was sent: what has been decoded could mean another path.
        path = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        method, handler = self._route(path)
        label = path if path in self._routes else "/v1/models/" if handler else "other"
        watched = _Watched(send, self.figures, label)
        self.figures.ongoing.inc()
        try:
            self._admit(scope, path, method, handler)
            assert handler is not None
            await handler(scope, receive, watched)
        except Refusal as refusal:
            await send_whole(watched, refusal.status, refusal.body, headers=refusal.headers)
        finally:
            self.figures.ongoing.dec()
            watched.ended()

    def _route(self, path: str) -> tuple[str, Handler | None]:
        if path.startswith("/v1/models/"):
            return "GET", self._model
        return self._routes.get(path, ("GET", None))

    def _admit(self, scope: Scope, path: str, method: str, handler: Handler | None) -> None:
        if handler is None:
            raise Refusal(404, "there is nothing at this path", code="not_found")
        if scope["method"] != method:
            raise Refusal(405, f"ask with {method}", headers={"allow": method})
        if self.keys is None:
            _check_host(scope)
        elif path not in _OPEN:
            _check_key(scope, self.keys)

    async def _page(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        page = chat_page()
        await send_whole(send, 200, page.body, content_type=page.type, headers=page.headers)

    async def _health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        if self.is_draining:
            status = "draining"
        else:
            status = "ok" if await self.backend.ready() else "starting"
        await send_whole(send, 200 if status == "ok" else 503, _json({"status": status}))

    async def _metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        text = self.figures.text(await self.backend.metrics())
        await send_whole(send, 200, text, content_type=CONTENT_TYPE)

    async def _openapi(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        document = openapi(self.backend.models, authenticated=self.keys is not None)
        await send_whole(send, 200, _json(document))

    async def _models(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        cards = [self._card(name) for name in self.backend.models]
        await send_whole(send, 200, _json({"object": "list", "data": cards}))

    async def _model(self, scope: Scope, _receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix("/v1/models/")
        self._check_model(name)
        await send_whole(send, 200, _json(self._card(name)))

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self._created, "owned_by": "raysmith"}
        parent = self.backend.models[0]
        return card if name == parent else card | {"parent": parent}

    def _check_model(self, name: str) -> None:
        if name not in self.backend.models:
            served = ", ".join(self.backend.models)
            message = f"the model {name[:128]!r} is not served here; these are: {served}"
            raise Refusal(404, message, param="model", code="model_not_found")

    async def _complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_draining:
            raise Refusal(503, "the service is ending", headers={"connection": "close"})
        answer = _Answer(send)
        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                body = await read_json_body(scope, receive, self.limits.max_body)
                call = Call("POST", scope["path"], self._checked(scope["path"], body))
                await _until_gone(answer.relay(self.backend, call), receive)
        except TimeoutError:
            timeout_s = self.limits.request_timeout_s
            refusal = Refusal(408, f"not answered within {timeout_s:g} s")
            await answer.give_up(refusal)
        except Refusal as refusal:
            await answer.give_up(refusal)

    def _checked(self, path: str, body: bytes) -> bytes:
        request = checked_request(path, body, self.limits)
        self._check_model(request.setdefault("model", self.backend.models[0]))
        return encoded(request)


class _Answer:
    """A completion on its way from a replica to a client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams = False

    async def relay(self, backend: Backend, call: Call) -> None:
        """Passes an answer on: its parts as they come, or as a whole what is no stream."""
        async with backend.ask(call) as parts:
            head = await anext(parts)
            assert isinstance(head, Head)
            if not head.content_type.startswith(_EVENTS):
                body = b"".join([part async for part in parts if isinstance(part, bytes)])
                if head.status >= 400:
                    raise _told_by_vllm(head.status, body)
                await send_whole(self._send, head.status, body, content_type=head.content_type)
                return
            # What vLLM refuses, it refuses before anything else, in a stream with status 200.
            first = await anext(parts, b"")
            if isinstance(first, bytes) and first.startswith(_ERROR_EVENT):
                raise _told_by_vllm(400, first.removeprefix(b"data:").partition(b"\n")[0])
            self._streams = True
            # Proxies between here and the client must not keep tokens back.
            fields = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            await send_head(self._send, head.status, {"content-type": head.content_type} | fields)
            await self._send({"type": "http.response.body", "body": first, "more_body": True})
            async for part in parts:
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
            await self._send({"type": "http.response.body", "body": b""})

    async def give_up(self, refusal: Refusal) -> None:
        """Tells the client what went wrong, in the stream where it has begun."""
        if not self._streams:
            raise refusal
        await self._send({"type": "http.response.body", "body": error_event(refusal.body)})


def _told_by_vllm(status: int, body: bytes) -> Refusal:
    """An error of vLLM's in the shape of all others."""
    try:
        error = json.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, param = "the request can't be answered", None
    return Refusal(status, message, param=param if isinstance(param, str) else None)


async def _until_gone(relay: Awaitable[None], receive: Receive) -> None:
    """Waits for the end of the answer, or for that of the client's interest in it."""
    answering = asyncio.ensure_future(relay)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    finally:
        answering.cancel()
        gone.cancel()


class _Watched:
    """Sends, and counts what was sent."""

    def __init__(self, send: Send, figures: GateMetrics, route: str) -> None:
        self._send = send
        self._figures = figures
        self._route = route
        self._began = time.perf_counter()
        self._status = "gone"
        self._has_begun = False

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = str(message["status"])
        elif not self._has_begun:
            self._has_begun = True
            passed = time.perf_counter() - self._began
            self._figures.first_seconds.labels(self._route).observe(passed)
        await self._send(message)

    def ended(self) -> None:
        """Counts the request."""
        self._figures.requests.labels(self._route, self._status).inc()
        self._figures.seconds.labels(self._route).observe(time.perf_counter() - self._began)


def _check_key(scope: Scope, keys: Keys) -> None:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, key = (given[0] if len(given) == 1 else b"").decode("latin-1").partition(" ")
    # The key is always compared, so that the time does not tell what was wrong.
    if not keys.open_with(key.strip()) or scheme.lower() != "bearer":
        raise Refusal(
            401,
            "give a valid API key: Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _check_host(scope: Scope) -> None:
    """Refuses web pages that had a name of theirs resolved to this machine.

    Without a key the service listens on the loopback address, and this is what guards it.
    """
    host = dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if not is_loopback(name.strip("[]")):
        raise Refusal(403, "ask by the name localhost, or give the service a key: see auth")


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
