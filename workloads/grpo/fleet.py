"""The pool of engines: who is well, who gets the next request, who is replaced.

    RESTARTING --started--> STALE --weights--> HEALTHY --no answer--> SUSPECT --ping--> HEALTHY
         ^                    |                   |                      |
         +------------------ DEAD <---------------+----------------------+

A member serves only while it is HEALTHY: with a completed weight update, and that of the newest
version. What a dead member owed is asked again of another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any, Protocol

from jobs.errors import ClusterError, RaysmithError
from workloads.failures import root
from workloads.grpo.engines import Generation, Request
from workloads.grpo.rollout import DataFailure

_PING_S = 10.0
_GRACE_S = 5.0
"""Seconds after its deadline that an actor may take to say that it missed it."""
_TRIES_AT_DEADLINE = 3
_MOST_LOST = 5
"""Engines that a request may outlive before it is taken for what kills them."""

log = logging.getLogger(__name__)


class Health(StrEnum):
    """How a member is."""

    RESTARTING = "restarting"
    """Its process or its engine is starting."""
    STALE = "stale"
    """It is up, without the newest weights."""
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    """It missed a deadline, and is being asked whether it lives."""
    DEAD = "dead"


class Handle(Protocol):
    """An actor as the fleet uses it; each call can be awaited."""

    start: Any
    ping: Any
    generate: Any
    score: Any
    call: Any
    load_adapter: Any


@dataclass
class Member:
    """One place in the pool, whoever fills it."""

    index: int
    health: Health = Health.RESTARTING
    handle: Any = None
    incarnation: int = 0
    """How many actors have filled this place."""
    version: int = -1
    """Of its weights; -1 before the first update."""
    load: int = 0
    """Requests that it owes."""
    died_at: float | None = None


class Lost(Exception):
    """An actor did not answer: it is dead, or as good as dead."""


@dataclass
class Fleet:
    """The members, and the one place where requests are handed to them.

    `spawn` makes an actor for a place; `kill` ends one for good. Both are Ray's in
    production. `lost` are the errors that say that an actor died.
    """

    size: int
    spawn: Callable[[int], Handle]
    kill: Callable[[Any], None]
    lost: tuple[type[BaseException], ...]
    request_timeout_s: float
    start_timeout_s: float
    max_restarts: int
    event: Callable[..., None]
    members: list[Member] = field(default_factory=list)
    restarts: int = 0
    newest: int = -1
    """The newest version of weights that any member has."""
    recoveries_s: list[float] = field(default_factory=list)
    """Seconds from each death to the replacement's first complete weights."""
    redispatched: int = 0
    failure: BaseException | None = None
    """Why the fleet gave up."""

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._healthy = asyncio.Event()
        self._silent: tuple[type[BaseException], ...] = (TimeoutError, *self.lost)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Starts every member; returns at once."""
        self.members = [Member(index) for index in range(self.size)]
        for member in self.members:
            self._spawn(member)

    def up(self) -> list[Member]:
        """Members that can take weights."""
        return [m for m in self.members if m.health in (Health.STALE, Health.HEALTHY)]

    async def wait_until_up(self, *, everyone: bool) -> None:
        """Waits for one member that can take weights, or for all of them.

        Raises:
            RaysmithError: if the fleet has given up.
        """

        def ready() -> bool:
            return len(self.up()) >= (self.size if everyone else 1)

        await self._wait(ready)

    async def generate(
        self, request: Request, preferred: int | None
    ) -> tuple[Generation | DataFailure, int]:
        """One completion, by whichever member gets to it, and that member's index.

        Raises:
            RaysmithError: if the fleet has given up.
        """
        late: list[int] = []
        lost = 0
        for attempt in count():
            member = await self._choose(preferred, late)
            incarnation = member.incarnation
            # An engine may still be at the last try, and knows requests by their ids.
            asked = replace(request, request_id=f"{request.request_id}#{attempt}")
            try:
                call = member.handle.generate.remote(asked, self.request_timeout_s)
                return await self._ask(member, call), member.index
            except TimeoutError:
                late.append(member.index)
                await self._suspect(member, incarnation)
                if len(late) == _TRIES_AT_DEADLINE:
                    seconds = f"{self.request_timeout_s:g} s"
                    return DataFailure(f"no completion within {seconds}, {len(late)} times"), -1
            except Lost as error:
                self.bury(member, str(error), incarnation)
                lost += 1
                if lost == _MOST_LOST:
                    return DataFailure(f"{lost} engines died of it, or while they had it"), -1
            self.redispatched += 1
            preferred = None
        raise AssertionError("the tries do not end")

    async def _ask(self, member: Member, call: Any) -> Any:
        incarnation = member.incarnation
        member.load += 1
        try:
            return await asyncio.wait_for(call, self.request_timeout_s + _GRACE_S)
        except self.lost as error:
            raise Lost(f"{type(error).__name__}") from error
        finally:
            if member.incarnation == incarnation:
                member.load -= 1

    async def _choose(self, preferred: int | None, late: Sequence[int]) -> Member:
        """The preferred member, or the one that owes least and did not miss the deadline."""

        await self._wait_until_healthy()
        if preferred is not None and self.members[preferred].health is Health.HEALTHY:
            return self.members[preferred]
        members = (m for m in self.members if m.health is Health.HEALTHY)
        return min(members, key=lambda m: (m.index in late, m.load, m.index))

    async def _wait_until_healthy(self) -> None:
        """Waits for a member that serves.

        Thousands of requests may wait here while a thousand members start, so they are woken by
        the first that serves alone, and not by every change.
        """
        while self.failure is None and not self._serves():
            self._healthy.clear()
            await self._healthy.wait()
        if self.failure is not None:
            raise self.failure

    def _serves(self) -> bool:
        return any(member.health is Health.HEALTHY for member in self.members)

    async def _suspect(self, member: Member, incarnation: int) -> None:
        """Asks a member that missed a deadline whether it lives."""
        if member.health is not Health.HEALTHY or member.incarnation != incarnation:
            return
        member.health = Health.SUSPECT
        try:
            await asyncio.wait_for(member.handle.ping.remote(), _PING_S)
        except self._silent:
            reason = f"it missed a deadline, and then a ping of {_PING_S:g} s"
            self.bury(member, reason, incarnation)
        else:
            if member.incarnation == incarnation and member.health is Health.SUSPECT:
                # Weights may have been updated meanwhile without it.
                is_newest = member.version == self.newest
                member.health = Health.HEALTHY if is_newest else Health.STALE
            await self._notify()

    def bury(self, member: Member, reason: str, incarnation: int) -> None:
        """Ends a member for good, and starts another in its place, within bounds.

        Does nothing where the place has been filled anew since.
        """
        if member.health in (Health.DEAD, Health.RESTARTING) or member.incarnation != incarnation:
            return
        self._died(member, reason)

    def _died(self, member: Member, reason: str) -> None:
        member.health, member.load = Health.DEAD, 0
        member.died_at = member.died_at or time.monotonic()
        self.kill(member.handle)
        self.event("rollout_actor_died", actor=member.index, reason=reason)
        log.warning("rollout actor %d died: %s", member.index, reason)
        if self.restarts >= self.max_restarts:
            self._give_up(
                ClusterError(
                    f"rollout actors died {self.restarts + 1} times, the last one ({member.index}) "
                    f"because {reason}",
                    "see the actors' logs beside the attempt's; raise rollout.max_actor_restarts "
                    "if the machines are at fault",
                )
            )
        else:
            self.restarts += 1
            self._spawn(member)
        self._run(self._notify())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _spawn(self, member: Member) -> None:
        member.health, member.version = Health.RESTARTING, -1
        member.incarnation += 1
        member.handle = self.spawn(member.index)
        self._run(self._bring_up(member, member.incarnation))

    async def _bring_up(self, member: Member, incarnation: int) -> None:
        started = time.monotonic()
        try:
            pid = await asyncio.wait_for(member.handle.start.remote(), self.start_timeout_s)
        except TimeoutError:
            self._died(member, f"it did not start within {self.start_timeout_s:g} s")
        except self.lost as error:
            self._died(member, f"it ended while it started ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - an engine that can't start is the run's failure
            cause = root(error)
            self._give_up(
                RaysmithError(
                    f"rollout actor {member.index} did not start: {type(cause).__name__}: {cause}",
                    f"see rollout_{member.index}.log in the attempt's folder",
                )
            )
        else:
            if member.incarnation == incarnation:
                member.health = Health.STALE
                seconds = round(time.monotonic() - started, 3)
                self.event("rollout_actor_up", actor=member.index, pid=pid, seconds=seconds)
        await self._notify()

    def _give_up(self, error: BaseException) -> None:
        self.failure = self.failure or error

    async def weights_updated(self, updated: Sequence[tuple[int, int]], version: int) -> None:
        """Records that these members, by place and incarnation, have all weights of a version.

        All others that are up are stale.
        """
        if updated:
            self.newest = version
        complete = set(updated)
        for member in self.up():
            if (member.index, member.incarnation) in complete:
                member.health, member.version = Health.HEALTHY, version
                if member.died_at is not None:
                    seconds = round(time.monotonic() - member.died_at, 3)
                    member.died_at = None
                    self.recoveries_s.append(seconds)
                    self.event("rollout_actor_recovered", actor=member.index, seconds=seconds)
            elif member.version != version:
                member.health = Health.STALE
        await self._notify()

    async def check(self, suspects: Sequence[tuple[int, int]]) -> None:
        """After a failed update: buries members that don't answer, and marks the others stale."""
        suspected = set(suspects)
        asked = [m for m in self.up() if (m.index, m.incarnation) in suspected]
        for member in asked:
            member.health = Health.STALE
        # All at once: a rack that is gone costs one ping's deadline, and not one for each member.
        await asyncio.gather(*(self._check(member, member.incarnation) for member in asked))
        await self._notify()

    async def _check(self, member: Member, incarnation: int) -> None:
        try:
            await asyncio.wait_for(member.handle.ping.remote(), _PING_S)
        except self._silent as error:
            reason = f"no answer after a weight update ({type(error).__name__})"
            self.bury(member, reason, incarnation)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.failure is not None or condition())
        if self.failure is not None:
            raise self.failure

    async def _notify(self) -> None:
        if not self._healthy.is_set() and (self.failure is not None or self._serves()):
            self._healthy.set()
        async with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all members."""
        for task in self._tasks:
            task.cancel()
        for member in self.members:
            self.kill(member.handle)
