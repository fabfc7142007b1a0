"""The mailbox of workers that stay, and how rows are shared out among them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from workloads.train.crew import Mailbox, Order, shards


def _order(name: str) -> Order:
    return Order(lambda config: name, cast(Any, name), [{}])


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


@dataclass
class FakeDataset:
    """Is split as Ray's datasets are."""

    name: str
    context: Any = field(
        default_factory=lambda: SimpleNamespace(
            execution_options=SimpleNamespace(preserve_order=False)
        )
    )

    def streaming_split(self, parts: int, *, equal: bool) -> list[str]:
        assert equal
        return [f"{self.name} {part + 1}/{parts}" for part in range(parts)]


def test_each_worker_has_its_part_in_order() -> None:
    datasets: dict[str, Any] = {name: FakeDataset(name) for name in ("train", "eval")}
    assert shards(datasets, 2) == [
        {"train": "train 1/2", "eval": "eval 1/2"},
        {"train": "train 2/2", "eval": "eval 2/2"},
    ]
    assert all(each.context.execution_options.preserve_order for each in datasets.values())


def test_a_lone_worker_has_all_rows() -> None:
    datasets: dict[str, Any] = {"train": FakeDataset("train")}
    assert shards(datasets, 1) == [datasets]
    assert datasets["train"].context.execution_options.preserve_order
