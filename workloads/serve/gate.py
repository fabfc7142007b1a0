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
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.spec.fields import size_bytes
from jobs.spec.serve import LimitsSpec
from workloads.serve.answers import Refusal, Send, error_event, send_head, send_whole
from workloads.serve.chat_page import chat_page
from workloads.serve.keys import Keys
from workloads.serve.replica import Call, Head
from workloads.serve.requests import checked_request, encoded

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Scope = Mapping[str, Any]

_EVENTS = "text/event-stream"


class Backend(Protocol):
    """What stands behind the gate."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names that clients may ask for, the model's own first."""

    @property
    def is_ready(self) -> bool:
        """Whether a replica is there to answer."""

    def ask(self, call: Call) -> AbstractContextManager[AsyncIterator[Head | bytes]]:
        """The head and the parts of an answer. Leaving the block gives the request up.

        Raises:
            Refusal: when the queue is full, or the replica was lost.
        """


@dataclass
class Gate:
    """The application. `keys` is None where everyone may ask."""

    backend: Backend
    keys: Keys | None
    limits: LimitsSpec
    created: int = 0
    is_draining: bool = False
    ongoing: int = 0
    """Requests that are being answered."""

    def __post_init__(self) -> None:
        self.created = self.created or int(time.time())
        self._routes: dict[str, tuple[str, Callable[[Scope, Receive, Send], Awaitable[None]]]] = {
            "/": ("GET", self._page),
            "/health": ("GET", self._health),
            "/v1/models": ("GET", self._models),
            "/v1/chat/completions": ("POST", self._complete),
            "/v1/completions": ("POST", self._complete),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        self.ongoing += 1
        try:
            await self._answer(scope, receive, send)
        except Refusal as refusal:
            await send_whole(send, refusal.status, refusal.body, headers=refusal.headers)
        finally:
            self.ongoing -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # As it was sent: what has been decoded could mean another path.
        path = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        method, handle = self._routes.get(path, ("GET", None))
        if handle is None and path.startswith("/v1/models/"):
            handle = self._model
        if handle is None:
            raise Refusal(404, "there is nothing at this path", code="not_found")
        if scope["method"] != method:
            raise Refusal(405, f"ask with {method}", headers={"allow": method})
        if path not in ("/", "/health"):
            self._check_key(scope)
        await handle(scope, receive, send)

    def _check_key(self, scope: Scope) -> None:
        if self.keys is None:
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = (given[0] if len(given) == 1 else b"").decode("latin-1").partition(" ")
        # Always compared, so that the time does not tell what was wrong.
        if not self.keys.open_with(key.strip()) or scheme.lower() != "bearer":
            raise Refusal(
                401,
                "give a valid API key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    async def _page(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        page = chat_page()
        await send_whole(send, 200, page.body, content_type=page.type, headers=page.headers)

    async def _health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        status = "draining" if self.is_draining else "ok" if self.backend.is_ready else "starting"
        body = json.dumps({"status": status}).encode()
        await send_whole(send, 200 if status == "ok" else 503, body)

    async def _models(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        cards = [self._card(name) for name in self.backend.models]
        await send_whole(send, 200, json.dumps({"object": "list", "data": cards}).encode())

    async def _model(self, scope: Scope, _receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix("/v1/models/")
        if name not in self.backend.models:
            raise unknown_model(name)
        await send_whole(send, 200, json.dumps(self._card(name)).encode())

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self.created, "owned_by": "raysmith"}
        parent = self.backend.models[0]
        return card if name == parent else card | {"parent": parent}

    async def _complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_draining:
            raise Refusal(503, "the service is ending", headers={"connection": "close"})
        started = False

        async def sent(message: dict[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.limits.request_timeout_s):
                body = await self._body(scope, receive)
                call = Call("POST", scope["path"], self._checked(scope["path"], body))
                relay = asyncio.ensure_future(self._relay(call, sent))
                gone = asyncio.ensure_future(_disconnected(receive))
                try:
                    await asyncio.wait((relay, gone), return_when=asyncio.FIRST_COMPLETED)
                    if relay.done():
                        relay.result()
                finally:
                    relay.cancel()
                    gone.cancel()
        except TimeoutError:
            message = f"not answered within {self.limits.request_timeout_s:g} s"
            if not started:
                raise Refusal(408, message, headers={"connection": "close"}) from None
            await send({"type": "http.response.body", "body": error_event(408, message)})
        except Refusal as refusal:
            if not started:
                raise
            await send({"type": "http.response.body", "body": b"data: " + refusal.body + b"\n\n"})

    async def _relay(self, call: Call, send: Send) -> None:
        with self.backend.ask(call) as parts:
            head = await anext(parts)
            assert isinstance(head, Head)
            streams = head.content_type.startswith(_EVENTS)
            if not streams:
                body = b"".join([part async for part in parts if isinstance(part, bytes)])
                await send_whole(send, head.status, body, content_type=head.content_type)
                return
            await send_head(
                send, head.status, {"content-type": head.content_type, "cache-control": "no-cache"}
            )
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _checked(self, path: str, body: bytes) -> bytes:
        request = checked_request(path, body, self.limits)
        if request.get("model") is None:
            request["model"] = self.backend.models[0]
        if request["model"] not in self.backend.models:
            raise unknown_model(request["model"])
        return encoded(request)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = size_bytes(self.limits.max_body)
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            # It also keeps web pages of others from asking in a visitor's name.
            raise Refusal(415, "send JSON, with the header Content-Type: application/json")
        too_large = Refusal(413, f"the body has more than {self.limits.max_body}")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise too_large
        parts = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "the body is not whole")
            parts += message.get("body", b"")
            if len(parts) > most:
                raise too_large
            if not message.get("more_body"):
                return bytes(parts)


def unknown_model(name: str) -> Refusal:
    """Says that a model is not served."""
    return Refusal(
        404, f"the model {name[:128]!r} is not served here", param="model", code="model_not_found"
    )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
