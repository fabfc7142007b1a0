"""A service that answers from a script, without a socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

URL = "http://127.0.0.1:8000/v1"


def event(text: str, finish_reason: str | None = None) -> bytes:
    """One event of a streamed answer, in UTF-8 and not in escapes."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class Chunks(httpx.SyncByteStream):
    """A body in pieces; an exception among them is raised where it stands."""

    def __init__(self, chunks: list[bytes | BaseException]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk


@dataclass
class Script(httpx.BaseTransport):
    """What the service says, and what it was asked."""

    answers: list[httpx.Response | list[bytes | BaseException] | Exception] = field(
        default_factory=list
    )
    models: httpx.Response | Exception | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        said: Any
        if request.url.path == "/v1/models":
            names = {"data": [{"id": "first"}, {"id": "second"}]}
            said = self.models or httpx.Response(200, json=names)
        else:
            assert request.url.path == "/v1/chat/completions"
            self.asked.append(json.loads(request.read()))
            said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, list):
            kind = {"content-type": "text/event-stream; charset=utf-8"}
            return httpx.Response(200, headers=kind, stream=Chunks(said))
        assert isinstance(said, httpx.Response)
        return said
