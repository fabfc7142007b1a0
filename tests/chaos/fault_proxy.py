"""A proxy before an S3 that fails on purpose, and operations through it that must not.

    python -m tests.chaos.fault_proxy [--operations 500] [--seed N] [--rate 0.2] [--no-retries]

Starts an S3 (moto, in a process of its own) and the proxy before it, does the operations with four
clients at once, and compares with what should be there, see `tests.chaos.storage_drill`. Prints
the seed and what failed how often; exits with 1 unless all is as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import secrets
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

DELAY = "delay"
RESET = "reset"
RESET_IN_BODY = "reset in the request's body"
ERROR_500 = "500"
SLOW_DOWN = "503 SlowDown"
ERROR_IN_200 = "InternalError in a 200"
TRUNCATED = "truncated answer"
BODILESS = "answer without its body"
LOST = "lost answer after success"
FAULTS = (
    DELAY,
    RESET,
    RESET_IN_BODY,
    ERROR_500,
    SLOW_DOWN,
    ERROR_IN_200,
    TRUNCATED,
    BODILESS,
    LOST,
)
EXPIRED = "403 ExpiredToken"
SKEWED = "403 RequestTimeTooSkewed"
"""These two need somebody to act; they are not among those that are drawn."""
_ANSWERS = {
    ERROR_500: ("500 Internal Server Error", "InternalError"),
    SLOW_DOWN: ("503 Slow Down", "SlowDown"),
    ERROR_IN_200: ("200 OK", "InternalError"),
    EXPIRED: ("403 Forbidden", "ExpiredToken"),
    SKEWED: ("403 Forbidden", "RequestTimeTooSkewed"),
}
_LONGEST_DELAY_S = 0.1
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>later</Message></Error>'
)


@dataclass(frozen=True)
class _Request:
    head: bytes
    """Request line and headers, with the empty line."""
    length: int
    expects: bool
    """Whether the client waits to be told to send the body."""

    @property
    def line(self) -> str:
        """Method and address."""
        return self.head.partition(b"\r\n")[0].decode()

    @property
    def completes(self) -> bool:
        """Whether it ends an upload in parts, which S3 may answer 200 and yet refuse."""
        return self.line.startswith("POST ") and "uploadId=" in self.line


@dataclass
class FaultProxy:
    """Passes requests on to `upstream`, but for some, of which one fault each is drawn."""

    upstream: str
    rate: float
    """The part of requests that meet a fault."""
    seed: int
    faults: tuple[str, ...] = FAULTS
    strip: tuple[bytes, ...] = ()
    """Lower-case names of headers that are not passed on, as by a service that ignores them."""
    matching: str = ""
    """A regular expression; only requests whose first line has a match meet faults."""
    most: int | None = None
    """How many requests meet faults at most; None sets no bound."""
    watcher: Callable[[str], float] | None = None
    """Told each request's first line; gives how many seconds the request is held."""
    met: Counter[str] = field(default_factory=Counter)
    """How often each fault was met, and "passed" how many requests met none."""
    port: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        address = urlsplit(self.upstream)
        self._upstream = (address.hostname, address.port)
        self._down_until = 0.0

    @property
    def address(self) -> str:
        """Where the proxy listens, once it runs."""
        return f"http://127.0.0.1:{self.port}"

    def outage(self, seconds: float) -> None:
        """From now on all connections are reset, those at work too; for any thread."""
        self._down_until = time.monotonic() + seconds

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Serves in a thread of its own as long as the block."""
        loop = asyncio.new_event_loop()
        ready, stop = threading.Event(), asyncio.Event()
        thread = threading.Thread(target=lambda: loop.run_until_complete(self._serve(ready, stop)))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        calls: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            calls.add(task)
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
            calls.discard(task)
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        for call in list(calls):
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; the connection ends with it, as the answer of the upstream says."""
        request = await self._read_head(reader)
        if self.watcher and (hold_s := self.watcher(request.line)):
            await asyncio.sleep(hold_s)
        fault = RESET if self._is_down else self._draw(request)
        self.met[fault or "passed"] += 1
        if fault == DELAY:
            await asyncio.sleep(self._random.uniform(0, _LONGEST_DELAY_S))
        if fault == RESET:
            return _reset(writer)
        if request.expects:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
        if fault == RESET_IN_BODY:
            await reader.readexactly(request.length // 2)
            return _reset(writer)
        body = await reader.readexactly(request.length)
        if fault in _ANSWERS:
            await _refuse(writer, fault)
            return None
        answer = await self._ask(request.head, body)
        if fault == LOST or self._is_down:
            return _reset(writer)
        start = answer.index(b"\r\n\r\n") + 4
        if fault == TRUNCATED:
            answer = answer[: self._random.randrange(start, max(start + 1, len(answer)))]
        if fault == BODILESS:
            answer = answer[:start]
        writer.write(answer)
        await writer.drain()
        return None

    @property
    def _is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def _draw(self, request: _Request) -> str | None:
        spent = self.most is not None and self.met.total() - self.met["passed"] >= self.most
        if spent or not re.search(self.matching, request.line):
            return None
        if self._random.random() >= self.rate:
            return None
        fault = self._random.choice(self.faults)
        return ERROR_500 if fault == ERROR_IN_200 and not request.completes else fault

    async def _read_head(self, reader: asyncio.StreamReader) -> _Request:
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        dropped = (b"connection", b"expect", *self.strip)
        kept = [line for line in lines[1:] if line.partition(b":")[0].lower() not in dropped]
        head = b"\r\n".join([lines[0], *kept, b"Connection: close", b"", b""])
        return _Request(head, int(headers.get(b"content-length", 0)), b"expect" in headers)

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(head + body)
            await writer.drain()
            return await reader.read(-1)
        finally:
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Breaks the connection off, so that the client gets a reset and no orderly end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _refuse(writer: asyncio.StreamWriter, fault: str) -> None:
    status, code = _ANSWERS[fault]
    body = _ERROR.format(code).encode()
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    await writer.drain()


def main() -> int:
    from tests.chaos.storage_drill import Drill
    from tests.s3_server import s3_process

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--no-retries", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with s3_process() as upstream:
        proxy = FaultProxy(upstream, options.rate, options.seed)
        with proxy.running():
            drill = Drill(upstream, proxy.address, options.seed, retries=not options.no_retries)
            started = time.perf_counter()
            wrong = drill.run(options.operations)
            took_s = time.perf_counter() - started
    requests = sum(proxy.met.values())
    faults = requests - proxy.met["passed"]
    print(f"{drill.done.total()} operations, {requests} requests, {faults} faults, {took_s:.1f} s")
    for name, count in (drill.done + proxy.met).most_common():
        print(f"  {count:5} {name}")
    for line in wrong:
        print(f"WRONG: {line}")
    print("all is as it should be" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
