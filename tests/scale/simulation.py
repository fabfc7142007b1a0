"""The real coordinator of GRPO between simulated engines and simulated train workers.

Real are the coordinator, the fleet, episodes, the producer, advantages, the ledger and the
recorder. Simulated are what lies beyond Ray: engines that take a log-normal time for a completion,
straggle, hang, die and start again; rewards; and ranks that fetch their rows, train, and send
weights, in the order in which `workloads.grpo.learner` does. Time is simulated, so that what the
process computes with is what coordination costs, and the fakes.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from jobs.spec.grpo import GrpoSpec
from storage.layout import AttemptLayout
from tests.scale.virtual_time import simulate
from workloads.data.prompts import Prompt
from workloads.engine import EngineSettings
from workloads.grpo.coordinator import Coordinator, RolloutTask
from workloads.grpo.engines import Generation, Request, VersionSpan
from workloads.grpo.episodes import Episodes
from workloads.grpo.fleet import Fleet, Member
from workloads.grpo.producer import Producer
from workloads.rewards.samples import Sample as Scored
from workloads.rewards.samples import Scores

GROUP = 8
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Scale:
    """How large a simulated run is, and how unreliable. Times are medians, in seconds."""

    actors: int
    ranks: int
    completions: int
    """Of one step; a multiple of the ranks and of the group."""
    steps: int = 4
    tokens: int = 256
    """Median length of a completion."""
    completion_s: float = 20.0
    spread: float = 0.5
    """Sigma of the log-normal distributions."""
    straggles: float = 0.01
    """Share of completions that take five times as long."""
    hangs: float = 0.0005
    """Share of completions that never come."""
    dies: float = 0.0005
    """Share of completions during which the engine dies."""
    start_s: float = 60.0
    train_s: float = 30.0
    sync_s: float = 1.0
    max_staleness: int = 1


@dataclass
class Outcome:
    """What a simulated run did, and what it cost."""

    cpu_s: float = 0.0
    """Processor time of the whole process, the fakes included."""
    simulated_s: float = 0.0
    looked_at: int = 0
    """How often the fleet asked a member how it is."""
    report: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    """That the ranks were given."""
    twice: int = 0
    """Rows that a rank was given that another one had."""
    calls: Counter[str] = field(default_factory=Counter)
    events: int = 0
    bytes_written: int = 0


class Gone(Exception):
    """What a call to a dead engine raises."""


class _Remote:
    def __init__(self, method: Any) -> None:
        self.remote = method


class SimulatedEngine:
    """A rollout actor, as the fleet calls it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._died = asyncio.Event()
        for name in ("start", "ping", "generate", "update"):
            setattr(self, name, _Remote(getattr(self, f"_{name}")))

    def kill(self) -> None:
        """Ends it; all calls under way raise."""
        self._died.set()

    async def _start(self) -> int:
        await self._lasts(self._world.draw(self._world.scale.start_s))
        return 1

    async def _ping(self) -> bool:
        await self._lasts(0.001)
        return True

    async def _update(self) -> None:
        await self._lasts(self._world.draw(self._world.scale.sync_s))

    async def _generate(self, request: Request, timeout_s: float) -> Generation:
        world, random = self._world, self._world.random
        world.outcome.calls["generate"] += 1
        fate = random.random()
        seconds = world.draw(world.scale.completion_s)
        if fate < world.scale.dies:
            await self._lasts(seconds / 2)
            self.kill()
            raise Gone
        if fate < world.scale.dies + world.scale.hangs:
            seconds = timeout_s
        elif fate < world.scale.dies + world.scale.hangs + world.scale.straggles:
            seconds *= 5
        version = world.version
        await self._lasts(min(seconds, timeout_s))
        if seconds >= timeout_s:
            raise TimeoutError
        count = min(int(world.draw(world.scale.tokens)) + 1, request.sampling.max_tokens)
        # Objects of their own, as those that arrive from another process are.
        tokens, logprobs = world.tokens[:count].tolist(), world.logprobs[:count].tolist()
        return Generation(tokens, logprobs, [VersionSpan(version, 0, count)], "stop")

    async def _lasts(self, seconds: float) -> None:
        """Waits, unless it is or gets killed."""
        try:
            await asyncio.wait_for(self._died.wait(), seconds)
        except TimeoutError:
            return
        raise Gone


class _Reader:
    rows = 1_000_000

    def read(self, rows: Iterable[int]) -> list[Prompt]:
        return [
            Prompt(row, [row % 50_000] * PROMPT_TOKENS, [{"role": "user", "content": str(row)}], {})
            for row in rows
        ]


class _Tokenizer:
    """Writes a token as four letters, as long as one is on average."""

    eos_token_id = 0

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return "word" * len(ids)


class _Rewards:
    def __init__(self, random: Random) -> None:
        self._random = random

    async def score(self, samples: Sequence[Scored]) -> Scores:
        await asyncio.sleep(0.05)
        return Scores([self._random.random() for _ in samples], {}, 0.05)

    async def close(self) -> None:
        """Nothing to end."""


class Watched(list[Member]):
    """Counts how often members are looked at."""

    looked_at = 0

    def __iter__(self) -> Iterator[Member]:
        for member in super().__iter__():
            self.looked_at += 1
            yield member


class World:
    """Everything beyond Ray."""

    def __init__(self, scale: Scale, outcome: Outcome, seed: int = 0) -> None:
        self.scale, self.outcome, self.random = scale, outcome, Random(seed)
        self.version = 0
        longest = 4 * scale.tokens
        self.tokens = array("i", [self.random.randrange(1000, 50_000) for _ in range(longest)])
        self.logprobs = array("d", [-self.random.random() for _ in range(longest)])

    def draw(self, median: float) -> float:
        """A log-normal number."""
        return self.random.lognormvariate(0.0, self.scale.spread) * median


class SimulatedCoordinator(Coordinator):
    """The real one, without Ray and without files to read."""

    def __init__(self, task: RolloutTask, world: World) -> None:
        self._world = world
        super().__init__(task)

    async def start(self) -> list[int]:
        """As the real one, on simulated prompts and rewards."""
        self._fleet.start()
        self._fleet.members = Watched(self._fleet.members)
        episodes = Episodes(self._spec, self._fleet, _Tokenizer(), frozenset(), self._task.seed)
        reader: Any = _Reader()
        pools = {"accuracy": _Rewards(self._world.random)}
        self._producer = Producer(
            self._spec, 0, self._ledger, reader, episodes, pools, self._recorder
        )
        self._running = asyncio.ensure_future(self._produce())
        self._running.add_done_callback(self._ended)
        return []

    @property
    def looked_at(self) -> int:
        """How often members of the fleet were looked at."""
        members = self._fleet.members
        return members.looked_at if isinstance(members, Watched) else 0

    def _make_fleet(self) -> Fleet:
        rollout = self._task.spec.rollout
        return Fleet(
            size=rollout.actors,
            spawn=self._spawn,
            kill=lambda engine: engine.kill(),
            lost=(Gone,),
            request_timeout_s=rollout.request_timeout_s,
            start_timeout_s=rollout.start_timeout_s,
            max_restarts=rollout.max_actor_restarts,
            event=self._recorder.event,
        )

    def _spawn(self, index: int) -> Any:
        return SimulatedEngine(self._world)


def run(scale: Scale, folder: Path) -> Outcome:
    """One simulated run, which leaves its files in `folder`."""
    layout, outcome = AttemptLayout(folder), Outcome()
    spec = _spec(scale)
    settings: Any = EngineSettings.__new__(EngineSettings)
    task = RolloutTask(
        spec=spec, seed=0, model="", prompts="", paths=(), reward_models={}, attempt=layout,
        first_batch=0, batches=scale.steps, ledger=None, settings=settings, cpus_per_actor=1,
        gpus_per_actor=0,
    )  # fmt: skip
    started = time.process_time()
    simulate(_scenario(task, World(scale, outcome)))
    outcome.cpu_s = time.process_time() - started
    files = [path for path in folder.iterdir() if path.is_file()]
    outcome.bytes_written = sum(path.stat().st_size for path in files)
    outcome.events = len(layout.rollout_events_jsonl.read_text().splitlines())
    return outcome


def _spec(scale: Scale) -> GrpoSpec:
    return GrpoSpec.model_validate(
        {
            "kind": "grpo",
            "model": "m",
            "dataset": {"train": ("x",), "shuffle": False},
            "rewards": [{"name": "accuracy", "label": "accuracy"}],
            "rollout": {
                "actors": scale.actors,
                "num_generations": GROUP,
                "max_completion_length": 4 * scale.tokens,
                "max_staleness": scale.max_staleness,
                "max_actor_restarts": 1_000_000,
            },
            "training": {"global_batch_size": scale.completions},
            "resources": {"workers": scale.ranks},
        }
    )


async def _scenario(task: RolloutTask, world: World) -> None:
    coordinator = SimulatedCoordinator(task, world)
    await coordinator.start()
    try:
        await _sync(coordinator, world, 0)
        for index in range(world.scale.steps):
            while (wanted := await coordinator.next(index)).what != "train":
                world.outcome.calls["next"] += 1
                if wanted.what == "sync":
                    await _sync(coordinator, world, index)
            await _train(coordinator, world, index)
            await coordinator.trained(index)
            await _sync(coordinator, world, index + 1)
        world.outcome.report = await coordinator.report()
    finally:
        world.outcome.looked_at = coordinator.looked_at
        world.outcome.simulated_s = asyncio.get_running_loop().time()
        await coordinator.stop()


async def _train(coordinator: Coordinator, world: World, index: int) -> None:
    ranks = world.scale.ranks
    seen: set[int] = set()

    async def rank(number: int) -> None:
        rows = await coordinator.rows(index, number, ranks)
        world.outcome.rows += len(rows)
        world.outcome.twice += sum(row.key in seen for row in rows)
        seen.update(row.key for row in rows)
        await asyncio.sleep(world.draw(world.scale.train_s))

    await asyncio.gather(*(rank(number) for number in range(ranks)))


async def _sync(coordinator: Coordinator, world: World, version: int) -> None:
    """Sends weights to all engines that lack them, as the first train worker does."""
    while (receivers := await coordinator.begin_update(version)) is None:
        world.outcome.calls["begin_update"] += 1
    answers = await asyncio.gather(
        *(receiver.handle.update.remote() for receiver in receivers), return_exceptions=True
    )
    keys = [(receiver.index, receiver.incarnation) for receiver in receivers]
    failed = {k: "it died" for k, a in zip(keys, answers, strict=True) if a is not None}
    world.version = version
    await coordinator.end_update(version, [key for key in keys if key not in failed], failed)
