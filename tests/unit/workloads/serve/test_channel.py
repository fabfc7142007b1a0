"""Answers come back whole, in order, and to the one who asked; what breaks off is told."""

import asyncio
from typing import Any, cast

import pytest

from workloads.serve.channel import Head, Inbox, Kind, Lost, Outbox, Reply, parts_of

HEAD = Head(200, "text/plain")


class Wire:
    """A connection without a network: what is written to it is what the other end reads."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.reader.feed_data(data)

    async def drain(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def joined(inbox: Inbox, reply: Reply) -> tuple[Outbox, Wire, "asyncio.Task[None]"]:
    """A replica's connection to an inbox."""
    wire = Wire()
    writer = cast(Any, wire)
    receiving = asyncio.create_task(inbox.receive(wire.reader, writer))
    wire.write(reply.secret)
    return Outbox(writer), wire, receiving


def test_answers_reach_who_expects_them() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        with inbox.expect() as (first, one), inbox.expect() as (second, two):
            outbox, wire, receiving = await joined(inbox, first)
            for part in (b"a", b"", b"x" * 100_000):
                await outbox.put(second.number, Kind.BODY, part)
            await outbox.put_head(first.number, HEAD)
            await outbox.put(first.number, Kind.BODY, b"b")
            await outbox.put(second.number, Kind.END)
            await outbox.put(first.number, Kind.END)
            assert [part async for part in parts_of(one)] == [HEAD, b"b"]
            assert [part async for part in parts_of(two)] == [b"a", b"", b"x" * 100_000]
        # Nobody waits any more; the connection is none the worse.
        await outbox.put(first.number, Kind.BODY, b"late")
        wire.reader.feed_eof()
        await receiving

    asyncio.run(scenario())


def test_a_broken_connection_ends_the_answers_on_it() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        with inbox.expect() as (first, one), inbox.expect() as (other, two):
            outbox, wire, receiving = await joined(inbox, first)
            await outbox.put(first.number, Kind.BODY, b"a")
            wire.write(b"\0\0\0")
            wire.reader.feed_eof()
            await receiving
            with pytest.raises(Lost, match="broke"):
                assert [part async for part in parts_of(one)]
            assert two.empty(), other

    asyncio.run(scenario())


def test_a_stranger_is_not_listened_to() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        with inbox.expect() as (reply, parts):
            stranger = Reply(reply.host, reply.port, bytes(32), reply.number)
            outbox, wire, receiving = await joined(inbox, stranger)
            await receiving
            assert wire.closed
            with pytest.raises(ConnectionError):
                await outbox.put(reply.number, Kind.BODY, b"forged")
            assert parts.empty()

    asyncio.run(scenario())
