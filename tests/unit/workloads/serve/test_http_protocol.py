"""A request's head may not grow or dawdle without end."""

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from workloads.serve import http_protocol
from workloads.serve.http_protocol import MAX_HEAD_BYTES, BoundedProtocol


class Line(asyncio.Transport):
    """A connection that notes whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.written = b""

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def set_protocol(self, protocol: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def connected() -> tuple[BoundedProtocol, Line]:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    line = Line()
    protocol = BoundedProtocol(config, ServerState(), {})
    protocol.connection_made(line)
    return protocol, line


def test_requests_of_any_length_of_body_are_answered() -> None:
    async def scenario() -> None:
        protocol, line = connected()
        for _ in range(2):
            line.written = b""
            protocol.data_received(b"POST / HTTP/1.1\r\ncontent-length: 200000\r\n\r\n")
            for _ in range(4):
                protocol.data_received(b"x" * 50_000)
                await asyncio.sleep(0)
            while b"204" not in line.written:
                await asyncio.sleep(0)
            assert not line.closed
        protocol.connection_lost(None)

    asyncio.run(scenario())


@pytest.mark.parametrize("endless", [b"x" * 1000, b"x: y\r\n" * 200])
def test_an_endless_head_is_cut_off(endless: bytes) -> None:
    async def scenario() -> int:
        protocol, line = connected()
        protocol.data_received(b"GET / HTTP/1.1\r\na: ")
        sent = 0
        while not line.closed:
            protocol.data_received(endless)
            sent += len(endless)
        protocol.connection_lost(None)
        return sent

    assert asyncio.run(scenario()) <= MAX_HEAD_BYTES + len(endless)


def test_a_slow_head_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.01)

    async def scenario() -> None:
        for sent in (b"", b"GET / HT"):
            protocol, line = connected()
            if sent:
                protocol.data_received(sent)
            await asyncio.sleep(0.05)
            assert line.closed
            protocol.connection_lost(None)

    asyncio.run(scenario())
