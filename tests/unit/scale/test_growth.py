"""What coordination costs grows with the work, and not with its square. Counts, no clocks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.scale.bookkeeping import PROMPTS, ledger_after, record_of
from tests.scale.simulation import Gone, Outcome, Scale, Watched, run
from tests.scale.virtual_time import simulate
from workloads.grpo.engines import Request, Sampling
from workloads.grpo.fleet import Fleet


def _run(folder: Path, **changes: Any) -> Outcome:
    folder.mkdir()
    return run(
        Scale(**{"actors": 20, "ranks": 10, "completions": 160, "tokens": 8} | changes), folder
    )


def test_a_simulated_run_trains_on_every_prompt_once_whatever_dies(tmp_path: Path) -> None:
    outcome = _run(tmp_path / "a", dies=0.05, hangs=0.01, straggles=0.1, steps=6)
    assert outcome.report["restarts"] > 5
    assert outcome.report["redispatched"] > 5
    assert outcome.rows == 6 * 160
    assert outcome.twice == 0
    ledger = outcome.report["ledger"]
    assert (ledger["trained"], ledger["under_way"]) == (6 * 20, 0)


def test_a_request_is_handed_out_without_looking_at_the_whole_fleet() -> None:
    class Prompt:
        """Answers at once."""

        def __init__(self, index: int) -> None:
            self.start = self.generate = self

        def remote(self, *_: Any) -> Any:
            return asyncio.sleep(0, 1)

    async def scenario() -> float:
        fleet = Fleet(200, Prompt, lambda _: None, (Gone,), 600.0, 600.0, 0,  # type: ignore[arg-type]
                      lambda *_, **__: None)  # fmt: skip
        fleet.start()
        await fleet.wait_until_up(everyone=True)
        await fleet.weights_updated([(index, 1) for index in range(200)], 0)
        fleet.members = members = Watched(fleet.members)
        request = Request("r", [1], Sampling(1.0, 1, 0))
        await asyncio.gather(*(fleet.generate(request, number % 200) for number in range(1000)))
        return members.looked_at / 1000

    assert simulate(scenario()) <= 2


def test_the_checks_of_a_lost_rack_take_the_time_of_one() -> None:
    class Deaf:
        """Never answers."""

        def __init__(self) -> None:
            self.start, self.ping = self, self

        async def _nothing(self) -> int:
            await asyncio.sleep(0 if asyncio.get_running_loop().time() < 1 else 1e9)
            return 1

        def remote(self) -> Any:
            return self._nothing()

    async def scenario() -> float:
        fleet = Fleet(100, lambda _: Deaf(), lambda _: None, (Gone,), 600.0, 600.0, 0,  # type: ignore[arg-type, return-value]
                      lambda *_, **__: None)  # fmt: skip
        fleet.start()
        await fleet.wait_until_up(everyone=True)
        await asyncio.sleep(2)
        started = asyncio.get_running_loop().time()
        await fleet.check([(index, 1) for index in range(100)])
        return asyncio.get_running_loop().time() - started

    assert simulate(scenario()) == pytest.approx(10)


def test_requests_that_wait_are_not_woken_by_members_that_can_not_serve() -> None:
    class Slow:
        """Starts in its turn."""

        def __init__(self, index: int) -> None:
            self.index, self.start = index, self

        async def _start(self) -> int:
            await asyncio.sleep(1 + self.index)
            return 1

        def remote(self) -> Any:
            return self._start()

    async def scenario() -> int:
        fleet = Fleet(50, Slow, lambda _: None, (Gone,), 600.0, 600.0, 0,  # type: ignore[arg-type]
                      lambda *_, **__: None)  # fmt: skip
        fleet.start()
        fleet.members = members = Watched(fleet.members)
        request = Request("r", [1], Sampling(1.0, 1, 0))
        waiting = [asyncio.ensure_future(fleet.generate(request, None)) for _ in range(400)]
        await fleet.wait_until_up(everyone=True)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return members.looked_at

    # Each request looks once when it comes, and each change is looked at a few times.
    assert simulate(scenario()) < 50 * (400 + 50 * 5)


def test_a_ledger_is_as_large_as_its_gaps() -> None:
    ledger = ledger_after(20)
    assert len(ledger.trained) + len(ledger.filtered) == 20 * PROMPTS
    assert len(ledger.trained.ranges()) == len(ledger.filtered)
    assert len(ledger.filtered.ranges()) == len(range(0, 20 * PROMPTS, 100))


def test_a_status_does_not_grow_while_a_run_goes_on(tmp_path: Path) -> None:
    record = record_of(tmp_path, 10)
    size = record.layout.status.stat().st_size
    for _ in range(20):
        record.event("resized", "s0", workers=512)
        record.beat()
    assert record.layout.status.stat().st_size == size
