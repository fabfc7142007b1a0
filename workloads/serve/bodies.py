"""Reads a request's body, and no more of it than there may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from jobs.spec.fields import size_bytes
from workloads.serve.answers import Refusal

Receive = Callable[[], Awaitable[dict[str, Any]]]
Scope = Mapping[str, Any]


async def read_json_body(scope: Scope, receive: Receive, max_body: str) -> bytes:
    """The bytes of a body that is said to be JSON.

    Raises:
        Refusal: if it is said to be something else, is too large, or breaks off.
    """
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        # It also keeps web pages of others from asking in a visitor's name.
        raise Refusal(415, "send JSON, with the header Content-Type: application/json")
    most = size_bytes(max_body)
    too_large = Refusal(413, f"the body has more than {max_body}")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > most:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the body is not whole")
        body += message.get("body", b"")
        if len(body) > most:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


async def disconnected(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
