"""The way back: answers go from replicas to the gate over a connection of their own.

Serve's handle carries requests, and decides which replica takes which; a call lasts until its
answer has ended, which is what Serve counts, scales and drains by. The answer itself is many small
parts, one a token, and as items of a Ray stream each of them would cost nearly a millisecond of CPU
time (measured: 0.4 ms in the replica and 0.5 ms in the gate).

    gate     Inbox.expect() -> Reply  ---- Serve's handle ---->  replica: answer(call, reply)
    gate     Inbox's listener         <--- frames, one TCP ----  replica: Outboxes.to(reply)

A frame is the number of the answer, what the part is, its length, and its bytes. A connection opens
with the inbox's secret.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import logging
import secrets
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

log = logging.getLogger(__name__)

_HEADER = struct.Struct("!QBI")
_SECRET_BYTES = 32


class Kind(IntEnum):
    """What a frame holds."""

    HEAD = 0
    BODY = 1
    END = 2


@dataclass(frozen=True)
class Head:
    """How an answer begins."""

    status: int
    content_type: str


@dataclass(frozen=True)
class Reply:
    """Where an answer goes."""

    host: str
    port: int
    secret: bytes
    number: int


Part = Head | bytes | None
"""None is the end."""


class Lost(Exception):
    """The answer will not come to its end."""


class Inbox:
    """Where the gate receives answers."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._numbers = itertools.count(1)
        self._expected: dict[int, asyncio.Queue[Part | Lost]] = {}
        self._address = ("", 0)

    @contextmanager
    def expect(self) -> Iterator[tuple[Reply, asyncio.Queue[Part | Lost]]]:
        """An answer's address, and where its parts arrive while the block lasts."""
        number = next(self._numbers)
        queue = self._expected[number] = asyncio.Queue()
        try:
            yield Reply(*self._address, self._secret, number), queue
        finally:
            del self._expected[number]

    async def listen(self, host: str) -> asyncio.Server:
        """Opens the inbox to replicas that reach this machine at `host`."""
        server = await asyncio.start_server(self.receive, host, 0)
        self._address = (host, server.sockets[0].getsockname()[1])
        return server

    async def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes what one replica sends, until its connection ends."""
        numbers: set[int] = set()
        try:
            given = await reader.readexactly(_SECRET_BYTES)
            if not hmac.compare_digest(given, self._secret):
                return
            while True:
                number, kind, length = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                content = await reader.readexactly(length)
                numbers.add(number)
                if kind == Kind.END:
                    numbers.discard(number)
                # A client that has gone away expects nothing any more.
                if queue := self._expected.get(number):
                    queue.put_nowait(_part(kind, content))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            for number in numbers & self._expected.keys():
                self._expected[number].put_nowait(Lost("the replica's connection broke"))


def _part(kind: int, content: bytes) -> Part:
    if kind == Kind.BODY:
        return content
    return Head(**json.loads(content)) if kind == Kind.HEAD else None


class Outbox:
    """A replica's connection to one gate."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @property
    def is_open(self) -> bool:
        """Whether it can be written to."""
        return not self._writer.is_closing()

    async def put(self, number: int, kind: Kind, content: bytes = b"") -> None:
        """Sends a part of an answer.

        Raises:
            ConnectionError: if the gate is gone.
        """
        if not self.is_open:
            raise ConnectionResetError("the gate is gone")
        self._writer.write(_HEADER.pack(number, kind, len(content)) + content)
        await self._writer.drain()

    async def put_head(self, number: int, head: Head) -> None:
        """Sends how an answer begins."""
        content = {"status": head.status, "content_type": head.content_type}
        await self.put(number, Kind.HEAD, json.dumps(content).encode())


class Outboxes:
    """A replica's connections, one to each gate that it has answered."""

    def __init__(self) -> None:
        self._open: dict[bytes, Outbox] = {}
        self._opening = asyncio.Lock()

    async def to(self, reply: Reply) -> Outbox:
        """The connection for an answer.

        Raises:
            OSError: if the gate can't be reached.
        """
        async with self._opening:
            outbox = self._open.get(reply.secret)
            if outbox is None or not outbox.is_open:
                _, writer = await asyncio.open_connection(reply.host, reply.port)
                writer.write(reply.secret)
                outbox = self._open[reply.secret] = Outbox(writer)
            return outbox


async def parts_of(queue: asyncio.Queue[Part | Lost]) -> AsyncIterator[Head | bytes]:
    """The parts of an answer until its end.

    Raises:
        Lost: if the end will not come.
    """
    while (part := await queue.get()) is not None:
        if isinstance(part, Lost):
            raise part
        yield part
