"""The actor between the pool of engines, the rewards and the train workers.

    engines <--requests-- producer --groups--> rewards          (in this actor's event loop)
       ^                     |
       |                  batches
    weights                  v
       +------------- first train worker: next, begin_update, end_update, trained

Three loops, and what each waits for:
- the producer makes generation batch b once the engines have weights of version b - max_staleness
  or newer; a version is the number of batches that were trained on before it;
- the first train worker waits for its batch, and is asked for weights meanwhile when an engine that
  was replaced needs them;
- the fleet brings up engines, which serve once they have been given weights.
The first error of any of them reaches the train worker, and ends the attempt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.spec.grpo import GrpoSpec
from storage.layout import AttemptLayout
from workloads.data.prompts import PromptReader
from workloads.engine import EngineSettings, environment
from workloads.grpo.episodes import Episodes
from workloads.grpo.fleet import Fleet, Health, Member
from workloads.grpo.ledger import Ledger
from workloads.grpo.producer import Producer
from workloads.grpo.recorder import Recorder
from workloads.grpo.samples import Batch, Receiver, TrainRow, Wanted
from workloads.rewards.pool import RewardPool

log = logging.getLogger(__name__)

_POLL_S = 1.0


@dataclass(frozen=True)
class RolloutTask:
    """All that the coordinator is told."""

    spec: GrpoSpec
    seed: int
    model: str
    """The folder of the model to start from."""
    prompts: str
    """The folder of the prepared prompts."""
    paths: tuple[str, ...]
    """Where the user's modules are looked up."""
    reward_models: dict[str, str]
    """Folders of reward models, by the reward's label."""
    attempt: AttemptLayout
    first_batch: int
    batches: int
    """Generation batches of the whole run."""
    ledger: str | None
    """The ledger of the checkpoint that the run goes on from."""
    settings: EngineSettings
    cpus_per_actor: float
    gpus_per_actor: float


class Coordinator:
    """Owns the pool, the rewards and the ledger of one attempt."""

    def __init__(self, task: RolloutTask) -> None:
        """Starts nothing yet."""
        self._task = task
        self._spec = task.spec
        self._ledger = Ledger.from_json(task.ledger) if task.ledger else Ledger()
        self._recorder = Recorder(task.attempt)
        self._batches: dict[int, Batch] = {}
        self._version = -1
        self._changed = asyncio.Condition()
        self._failure: BaseException | None = None
        self._fleet = self._make_fleet()
        self._producer: Producer | None = None
        self._running: asyncio.Task[None] | None = None
        self._warming: list[asyncio.Task[None]] = []

    async def start(self) -> list[int]:
        """Starts engines, and the making of batches. Returns the tokens of the canary's text."""
        if not self._spec.rollout.colocate:
            self._fleet.start()
        reader = await asyncio.to_thread(PromptReader, Path(self._task.prompts))
        episodes = await Episodes.start(
            self._spec, self._task.model, self._task.paths, self._fleet, self._task.seed
        )
        pools = self._reward_pools()
        self._warming = [asyncio.ensure_future(pool.warm_up()) for pool in pools.values()]
        self._producer = Producer(
            self._spec,
            self._task.seed,
            self._ledger,
            reader,
            episodes,
            pools,
            self._recorder,
        )
        self._running = asyncio.ensure_future(self._produce())
        self._running.add_done_callback(self._ended)
        return canary_tokens(reader)

    async def next(self, index: int) -> Wanted:
        """What to do while or when batch `index` is wanted; returns within a second.

        Raises:
            UserError: if rewards fail throughout.
            RaysmithError: if too many engines died.
        """

        def ready() -> bool:
            return index in self._batches or self._needs_weights() or self._error() is not None

        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(ready), _POLL_S)
        except TimeoutError:
            pass
        if (error := self._error()) is not None:
            raise error
        if index in self._batches:
            return Wanted("train")
        if self._needs_weights():
            return Wanted("sync")
        done, total = self._producer.progress if self._producer else (0, 0)
        return Wanted("wait", done, total)

    async def rows(self, index: int, rank: int, workers: int) -> list[TrainRow]:
        """A worker's share of a batch: every `workers`-th row."""
        return self._batches[index].rows[rank::workers]

    async def about(self, index: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """A batch's metrics, and some of its completions."""
        batch = self._batches[index]
        return batch.metrics, batch.preview

    async def begin_update(self, version: int) -> list[Receiver] | None:
        """The engines that are to be given weights of this version.

        None where no engine is up within a second, or at first not all of them.
        """
        rollout = self._spec.rollout
        if rollout.colocate and not self._fleet.members:
            self._fleet.start()
        try:
            up = self._fleet.wait_until_up(everyone=self._version < 0)
            await asyncio.wait_for(up, _POLL_S)
        except TimeoutError:
            return None
        if rollout.colocate:
            await self._everywhere("wake_up", ["weights"])
        return [
            Receiver(member.index, member.incarnation, member.handle)
            for member in self._fleet.up()
            if member.version != version
        ]

    async def loaded(self) -> None:
        """Has colocated engines make room for completions, once all weights have arrived."""
        if self._spec.rollout.colocate:
            await self._everywhere("wake_up", ["kv_cache"])

    async def end_update(
        self,
        version: int,
        updated: list[tuple[int, int]],
        failed: dict[tuple[int, int], str],
    ) -> None:
        """Records which engines, by place and incarnation, have the weights, and which are lost."""
        for member in self._fleet.members:
            if reason := failed.get((member.index, member.incarnation)):
                self._fleet.bury(member, reason, member.incarnation)
        await self._fleet.weights_updated(updated, version)
        if updated:
            self._version = version
        await self._notify()

    async def failed_update(self, suspects: list[tuple[int, int]]) -> None:
        """After an update that broke off: finds out who lives."""
        await self._fleet.check(suspects)

    async def sleep(self) -> None:
        """Has colocated engines give their memory back until the next update."""
        await self._everywhere("sleep", 1)

    async def _everywhere(self, method: str, *args: Any) -> None:
        calls = (self._call(member, method, *args) for member in self._fleet.up())
        await asyncio.gather(*calls)

    async def _call(self, member: Member, method: str, *args: Any) -> None:
        incarnation = member.incarnation
        try:
            call = member.handle.call.remote(method, *args)
            await asyncio.wait_for(call, self._spec.rollout.sync_timeout_s)
        except (TimeoutError, *self._fleet.lost) as error:  # type: ignore[misc]
            self._fleet.bury(member, f"{method}: {type(error).__name__}", incarnation)

    async def trained(self, index: int) -> str:
        """Records that a batch was trained on, and forgets it. Returns the ledger."""
        batch = self._batches.pop(index)
        assert self._producer is not None
        self._ledger.train(self._producer.positions(batch.index))
        return self._ledger.to_json()

    async def span(self, what: str, index: int, start: float, stop: float) -> None:
        """Adds to the timeline what a train worker did; times in seconds since the epoch."""
        self._recorder.span(what, index, start, stop)

    async def report(self) -> dict[str, Any]:
        """What happened to the pool and to rewards, for the run's report."""
        return {
            "restarts": self._fleet.restarts,
            "recoveries_s": self._fleet.recoveries_s,
            "redispatched": self._fleet.redispatched,
            "ledger": self._ledger.counts(),
            "failures": self._recorder.failures_by_source(),
        }

    async def stop(self) -> None:
        """Ends all engines and rewards."""
        for task in (self._running, *self._warming):
            if task:
                task.cancel()
        if self._producer:
            await self._producer.close()
        self._fleet.close()
        self._recorder.close()

    async def _produce(self) -> None:
        assert self._producer is not None
        for index in range(self._task.first_batch, self._task.batches):
            oldest = index - self._spec.rollout.max_staleness
            await self._wait(partial(self._has_version, max(oldest, 0)))
            self._batches[index] = await self._producer.produce(index)
            await self._notify()

    def _ended(self, running: asyncio.Task[None]) -> None:
        if not running.cancelled() and running.exception() is not None:
            self._failure = running.exception()

    def _has_version(self, version: int) -> bool:
        return self._version >= version

    def _error(self) -> BaseException | None:
        return self._failure or self._fleet.failure

    def _needs_weights(self) -> bool:
        return self._version >= 0 and any(m.health is Health.STALE for m in self._fleet.members)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _reward_pools(self) -> dict[str, RewardPool]:
        return {
            reward.label: RewardPool(
                reward,
                max_completion_length=self._spec.rollout.max_completion_length,
                paths=self._task.paths,
                model_folder=self._task.reward_models.get(reward.label),
            )
            for reward in self._spec.rewards
        }

    def _make_fleet(self) -> Fleet:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        from workloads.grpo.rollout import RolloutActor

        task, rollout = self._task, self._spec.rollout
        actor_class = ray.remote(RolloutActor)

        def spawn(index: int) -> Any:
            return actor_class.options(
                num_cpus=task.cpus_per_actor,
                num_gpus=task.gpus_per_actor,
                max_restarts=0,
                # Completions of a batch may all be asked of one engine, three times at most; what
                # else is called must not wait for them.
                max_concurrency=3 * self._spec.generation_batch_size + 64,
                runtime_env={"env_vars": environment(task.settings)},
            ).remote(task.settings, task.attempt.rollout_log(index))

        return Fleet(
            size=rollout.actors,
            spawn=spawn,
            kill=ray.kill,
            lost=(RayActorError, OutOfMemoryError),
            request_timeout_s=rollout.request_timeout_s,
            start_timeout_s=rollout.start_timeout_s,
            max_restarts=rollout.max_actor_restarts,
            event=self._recorder.event,
        )


def canary_tokens(reader: PromptReader, limit: int = 64) -> list[int]:
    """The text that engine and trainer are compared on: the beginning of the first prompt."""
    return list(reader.read([0])[0].prompt_ids[:limit])
