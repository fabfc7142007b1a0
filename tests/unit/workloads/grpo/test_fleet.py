"""The fleet with actors that live, die and hang as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jobs.errors import ClusterError
from workloads.grpo.engines import Generation, Request, Sampling, VersionSpan
from workloads.grpo.fleet import Fleet, Health
from workloads.grpo.rollout import DataFailure

REQUEST = Request("0-0/0/0", [1, 2], Sampling(1.0, 4, 0))


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.grpo.fleet._GRACE_S", 0.0)


class Gone(Exception):
    """What a call to a dead actor raises."""


class FakeActor:
    """An actor whose calls answer at once, unless it was made to die or to hang."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.dead = self.hung = self.deaf = False
        self.served: list[str] = []
        for name in ("start", "ping", "generate"):
            setattr(self, name, Remote(getattr(self, f"_{name}")))

    async def _start(self) -> int:
        self._live()
        return 1000 + self.index

    async def _ping(self) -> bool:
        self._live()
        if self.deaf:
            await asyncio.Event().wait()
        return True

    async def _generate(self, request: Request, timeout_s: float) -> Generation:
        self._live()
        self.served.append(request.request_id)
        if self.hung:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self._live()
        return Generation([5], [-0.5], [VersionSpan(self.index, 0, 1)], "stop")

    def _live(self) -> None:
        if self.dead:
            raise Gone


class Remote:
    """A method that is called with `.remote(...)`."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.remote = method


class World:
    """A fleet and all actors that it ever started."""

    def __init__(self, size: int, **changes: Any) -> None:
        self.actors: list[FakeActor] = []
        self.events: list[str] = []
        settings: dict[str, Any] = {
            "request_timeout_s": 0.05,
            "start_timeout_s": 5.0,
            "max_restarts": 3,
        }
        self.fleet = Fleet(
            size=size,
            spawn=self._spawn,
            kill=lambda actor: setattr(actor, "dead", True),
            lost=(Gone,),
            event=lambda kind, **_: self.events.append(kind),
            **(settings | changes),
        )

    def _spawn(self, index: int) -> Any:
        self.actors.append(FakeActor(index))
        return self.actors[-1]

    async def ready(self, version: int = 0) -> None:
        """Starts the fleet and gives all members weights."""
        self.fleet.start()
        await self.fleet.wait_until_up(everyone=True)
        await self.update(version)

    async def update(self, version: int, *places: int) -> None:
        """Gives weights to the members in these places, or to all that are up."""
        chosen = [m for m in self.fleet.up() if not places or m.index in places]
        await self.fleet.weights_updated([(m.index, m.incarnation) for m in chosen], version)

    def health(self) -> list[Health]:
        return [member.health for member in self.fleet.members]


async def _soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_member_serves_only_after_its_first_weights() -> None:
    async def scenario() -> None:
        world = World(1)
        world.fleet.start()
        await world.fleet.wait_until_up(everyone=True)
        assert world.health() == [Health.STALE]
        asked = asyncio.ensure_future(world.fleet.generate(REQUEST, None))
        await asyncio.sleep(0.01)
        assert not asked.done()
        assert world.actors[0].served == []
        await world.update(0, 0)
        answer, index = await asked
        assert isinstance(answer, Generation)
        assert index == 0

    asyncio.run(scenario())


def test_members_that_missed_an_update_are_stale() -> None:
    async def scenario() -> None:
        world = World(2)
        await world.ready()
        await world.update(1, 0)
        assert world.health() == [Health.HEALTHY, Health.STALE]
        for _ in range(4):
            _, index = await world.fleet.generate(REQUEST, 1)
            assert index == 0

    asyncio.run(scenario())


def test_what_a_dead_member_owed_is_asked_of_another() -> None:
    async def scenario() -> None:
        world = World(2)
        await world.ready()
        world.actors[0].dead = True
        answer, index = await world.fleet.generate(REQUEST, 0)
        assert isinstance(answer, Generation)
        assert index == 1
        assert world.fleet.redispatched == 1
        assert world.fleet.restarts == 1

    asyncio.run(scenario())


def test_a_replacement_waits_for_weights_and_is_timed() -> None:
    async def scenario() -> None:
        world = World(1)
        await world.ready()
        world.actors[0].dead = True
        asked = asyncio.ensure_future(world.fleet.generate(REQUEST, None))
        await _soon(lambda: world.health() == [Health.STALE])
        assert not asked.done()
        assert len(world.actors) == 2
        await world.update(0, 0)
        await asked
        assert world.actors[1].served == ["0-0/0/0#1"]
        assert len(world.fleet.recoveries_s) == 1
        assert world.events.count("rollout_actor_recovered") == 1

    asyncio.run(scenario())


def test_a_slow_member_that_answers_a_ping_stays() -> None:
    async def scenario() -> None:
        world = World(2)
        await world.ready()
        world.actors[0].hung = True
        answer, index = await world.fleet.generate(REQUEST, 0)
        assert isinstance(answer, Generation)
        assert index == 1
        assert world.health() == [Health.HEALTHY, Health.HEALTHY]
        assert world.fleet.restarts == 0

    asyncio.run(scenario())


def test_a_member_that_answers_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.grpo.fleet._PING_S", 0.05)

    async def scenario() -> None:
        world = World(2)
        await world.ready()
        world.actors[0].hung = world.actors[0].deaf = True
        _, index = await world.fleet.generate(REQUEST, 0)
        assert index == 1
        assert world.actors[0].dead
        assert world.fleet.restarts == 1

    asyncio.run(scenario())


def test_a_request_that_hangs_everywhere_is_a_data_failure() -> None:
    async def scenario() -> None:
        world = World(2)
        await world.ready()
        for actor in world.actors:
            actor.hung = True
        answer, _ = await world.fleet.generate(REQUEST, None)
        assert isinstance(answer, DataFailure)
        assert "0.05 s" in answer.reason

    asyncio.run(scenario())


def test_too_many_deaths_reach_all_who_wait() -> None:
    async def scenario() -> None:
        world = World(1, max_restarts=1)
        await world.ready()
        world.actors[0].dead = True
        asked = asyncio.ensure_future(world.fleet.generate(REQUEST, None))
        await _soon(lambda: world.health() == [Health.STALE])
        world.actors[1].dead = True
        await world.fleet.check([(0, 2)])
        with pytest.raises(ClusterError, match="died 2 times"):
            await asked

    asyncio.run(scenario())


def test_a_member_that_was_suspect_during_an_update_has_old_weights() -> None:
    async def scenario() -> None:
        world = World(2)
        await world.ready()
        slow: Any = world.actors[0]
        slow.hung = True
        answered = asyncio.Event()

        async def ping() -> bool:
            return await answered.wait()

        slow.ping = Remote(ping)
        asked = asyncio.ensure_future(world.fleet.generate(REQUEST, 0))
        await _soon(lambda: world.health()[0] is Health.SUSPECT)
        await world.update(1)
        answered.set()
        await asked
        assert world.health() == [Health.STALE, Health.HEALTHY]

    asyncio.run(scenario())


def test_news_of_an_actor_that_was_replaced_does_not_concern_the_new_one() -> None:
    async def scenario() -> None:
        world = World(1)
        await world.ready()
        world.fleet.bury(world.fleet.members[0], "killed", 1)
        await _soon(lambda: world.health() == [Health.STALE])
        world.fleet.bury(world.fleet.members[0], "late news", 1)
        await world.fleet.weights_updated([(0, 1)], 1)
        assert world.health() == [Health.STALE]
        assert world.fleet.restarts == 1

    asyncio.run(scenario())


def test_a_request_that_kills_every_engine_is_a_data_failure() -> None:
    async def scenario() -> None:
        world = World(6, max_restarts=100)
        await world.ready()
        for actor in world.actors:
            actor.dead = True
        answer, _ = await world.fleet.generate(REQUEST, None)
        assert isinstance(answer, DataFailure)
        assert "5 engines died" in answer.reason
        await _soon(lambda: world.health() == [Health.STALE] * 5 + [Health.HEALTHY])

    asyncio.run(scenario())


def test_requests_are_spread_by_load() -> None:
    async def scenario() -> None:
        world = World(3)
        await world.ready()
        await asyncio.gather(*(world.fleet.generate(REQUEST, None) for _ in range(9)))
        assert [len(actor.served) for actor in world.actors] == [3, 3, 3]

    asyncio.run(scenario())


def test_closing_ends_every_actor() -> None:
    async def scenario() -> None:
        world = World(2)
        await world.ready()
        world.fleet.close()
        assert all(actor.dead for actor in world.actors)

    asyncio.run(scenario())
