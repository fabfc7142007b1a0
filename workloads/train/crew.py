"""Train workers that stay: one group of Ray Train's works through many trainings, one by one.

To start a worker and to import what it trains with takes longer than a short training. The trials
of a sweep therefore share workers: each training is an order that all workers of the group fetch
and carry out together. An order that fails ends the group, as it would end any training; the next
order starts another.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from workloads.data.stream import Stream
    from workloads.train.setup import TrainTask

WorkerFunction = Callable[[dict[str, Any]], Any]
"""What Ray Train runs on each worker."""

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Order:
    """One training."""

    worker: WorkerFunction
    task: TrainTask
    streams: Mapping[str, Stream]
    """The rows to train with and to validate on."""


class Mailbox:
    """Where a group fetches its orders. A Ray actor."""

    def __init__(self) -> None:
        self._orders: dict[int, Order] = {}
        self._posted = 0
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._news = asyncio.Condition()

    async def post(self, order: Order) -> int:
        """Adds an order; gives its number."""
        async with self._news:
            number, self._posted = self._posted, self._posted + 1
            self._orders[number] = order
            self._news.notify_all()
            return number

    async def order(self, number: int) -> Order:
        """The order of a number, as soon as there is one."""
        async with self._news:
            await self._news.wait_for(lambda: number in self._orders)
            return self._orders[number]

    async def finish(self, number: int, outcome: dict[str, Any]) -> None:
        """Takes what the first worker returned for an order. The others have fetched it by then,
        since they train together, so it is let go, with the rows that it holds."""
        async with self._news:
            del self._orders[number]
            self._outcomes[number] = outcome
            self._news.notify_all()

    async def outcome(self, number: int) -> dict[str, Any]:
        """What came of an order, as soon as it is known."""
        async with self._news:
            await self._news.wait_for(lambda: number in self._outcomes)
            return self._outcomes.pop(number)


def carry_out_orders(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on each worker of the group, until the group is ended."""
    import ray
    from ray.train import get_context

    mailbox = config["mailbox"]
    rank, workers = get_context().get_world_rank(), get_context().get_world_size()
    for number in count():
        order: Order = ray.get(mailbox.order.remote(number))
        parts = {name: stream.part(rank, workers) for name, stream in order.streams.items()}
        outcome = order.worker({"task": order.task, "shards": parts})
        if rank == 0:
            ray.get(mailbox.finish.remote(number, outcome))
        del order
        _free()


def _free() -> None:
    """Gives back the memory of the training before."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Crew:
    """A group of workers, seen from the process that gives the orders. Started when needed."""

    def __init__(self, scratch: Path) -> None:
        """`scratch` is a folder for what Ray Train writes."""
        self._scratch = scratch
        self._group: _Group | None = None

    def train(
        self,
        make_trainer: Callable[[WorkerFunction, dict[str, Any], Path], TorchTrainer],
        order: Order,
    ) -> dict[str, Any]:
        """Has an order carried out; returns what the first worker returned.

        `make_trainer` is asked for a trainer of the order's workers when there are none.

        Raises:
            WorkerGroupError: of Ray Train, if a worker failed.
        """
        import ray

        if self._group is None or not self._group.thread.is_alive():
            self._group = _Group(make_trainer, self._scratch)
        group = self._group
        number = ray.get(group.mailbox.post.remote(order))
        waiting = group.mailbox.outcome.remote(number)
        while not ray.wait([waiting], timeout=_LOOK_EVERY_S)[0]:
            if not group.thread.is_alive():
                self._group = None
                raise group.failure or RuntimeError("the workers ended by themselves")
        outcome: dict[str, Any] = ray.get(waiting)
        return outcome


class _Group:
    """A run of Ray Train whose workers carry out orders."""

    def __init__(
        self,
        make_trainer: Callable[[WorkerFunction, dict[str, Any], Path], TorchTrainer],
        scratch: Path,
    ) -> None:
        import ray

        self.mailbox = (
            ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy="DEFAULT").remote()
        )
        self.failure: BaseException | None = None
        trainer = make_trainer(carry_out_orders, {"mailbox": self.mailbox}, scratch)
        self.thread = Thread(target=self._fit, args=(trainer, scratch), name="crew", daemon=True)
        self.thread.start()

    def _fit(self, trainer: TorchTrainer, scratch: Path) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again to who waits for an order
            self.failure = error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
