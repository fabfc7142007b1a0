"""The mailbox of workers that stay."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from workloads.train.crew import Mailbox, Order


def _order(name: str) -> Order:
    return Order(lambda config: name, cast(Any, name), {})


def test_workers_wait_for_an_order_and_all_get_it() -> None:
    async def talk() -> None:
        mailbox, first, second = Mailbox(), _order("first"), _order("second")
        workers = [asyncio.ensure_future(mailbox.order(0)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(worker.done() for worker in workers)
        assert await mailbox.post(first) == 0
        assert await asyncio.gather(*workers) == [first, first]
        assert await mailbox.post(second) == 1
        assert await mailbox.order(1) is second
        assert await mailbox.order(0) is first  # a slower one

    asyncio.run(talk())


def test_outcomes_come_to_who_waits_for_their_order() -> None:
    async def talk() -> None:
        mailbox = Mailbox()
        for name in ("first", "second"):
            await mailbox.post(_order(name))
        waiting = [asyncio.ensure_future(mailbox.outcome(number)) for number in (0, 1)]
        await mailbox.finish(1, {"step": 2})
        await asyncio.sleep(0)
        assert [each.done() for each in waiting] == [False, True]
        await mailbox.finish(0, {"step": 1})
        assert await asyncio.gather(*waiting) == [{"step": 1}, {"step": 2}]

    asyncio.run(talk())


def test_nothing_is_kept_of_an_order_that_was_carried_out() -> None:
    async def talk() -> None:
        mailbox = Mailbox()
        for number in range(3):
            assert await mailbox.post(_order("any")) == number
            await mailbox.finish(number, {})
            await mailbox.outcome(number)
        assert (mailbox._orders, mailbox._outcomes) == ({}, {})

    asyncio.run(talk())
