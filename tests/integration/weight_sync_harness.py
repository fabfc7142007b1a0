"""What the tests of weight updates work with: train workers, and what stands for the coordinator.

Workers of Ray can't import this module, so it is registered to travel whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.spec.rollout import RolloutSpec
from jobs.spec.training import DeepSpeedStage, TrainingSpec
from jobs.spec.tuner import FullSpec, LoraSpec
from workloads.grpo.engines import Generation, Request, Sampling
from workloads.grpo.samples import Receiver

if TYPE_CHECKING:
    from torch import nn

    Key = tuple[int, int]

TOLERANCE, VISIBLE = 1e-3, 0.05
CANARY = [7 * i % 300 for i in range(60)]
WORKERS = 2
VERSIONS = count(1)
ROLLOUT = RolloutSpec(canary_tolerance=TOLERANCE, sync_timeout_s=600)


def request(name: str, tokens: int) -> Request:
    """A completion of exactly so many tokens, as the models know no end."""
    return Request(name, CANARY[:10], Sampling(0.9, tokens, seed=1))


class Pool:
    """Stands in for the coordinator: hands out the engines, and keeps what it is told."""

    def __init__(self, handles: dict[int, Any]) -> None:
        self.handles = handles
        self.told: list[tuple[Any, ...]] = []
        self.early: list[Any] = []
        self.late: list[Generation] = []
        self._asked: list[Any] = []

    def begin_update(self, version: int) -> list[Receiver]:
        return [Receiver(index, 1, handle) for index, handle in self.handles.items()]

    def loaded(self) -> None:
        """Those that live have all weights, and so write what they were asked for."""
        import ray

        self.late = ray.get(self._asked, timeout=60)

    def end_update(self, version: int, updated: list[Key], failed: dict[Key, str]) -> None:
        self.told.append(("end_update", version, updated, failed))
        for index, _ in failed:
            del self.handles[index]

    def failed_update(self, suspects: list[Key]) -> None:
        """Asks those that live for completions, which they must not write now."""
        import ray

        self.told.append(("failed_update", suspects))
        asked = [self.handles[index] for index, _ in suspects]
        self._asked = [handle.generate.remote(request("broken", 4), 60.0) for handle in asked]
        self.early, _ = ray.wait(self._asked, num_returns=len(asked), timeout=1)

    def heard(self) -> list[tuple[Any, ...]]:
        """What it was told, in turn."""
        return self.told

    def completions(self) -> tuple[int, list[Generation]]:
        """How many were written before the update was complete, and all of them in the end."""
        return len(self.early), self.late


@dataclass(frozen=True)
class Struck:
    """An engine's handle that sends its process a signal before it calls a certain method."""

    handle: Any
    pid: int
    signal: int
    method: str

    @property
    def call(self) -> Struck:
        """What is called of an engine during an update."""
        return self

    def remote(self, method: str, *args: Any) -> Any:
        """Calls the engine."""
        if method == self.method:
            os.kill(self.pid, self.signal)
        return self.handle.call.remote(method, *args)


@dataclass(frozen=True)
class Policy:
    """What is trained, and how."""

    model: str
    stage: DeepSpeedStage
    tuner: LoraSpec | FullSpec


class TrainRank:
    """One train worker."""

    def __init__(self, rank: int, store: str) -> None:
        import torch

        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS))
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS
        )
        self.rank = rank
        self.error = 0.0
        self.engine: Any = None
        self.sync: Any = None

    def build(self, policy: Policy, pool: Any, rollout: RolloutSpec, adapters: Path | None) -> None:
        """Makes the policy, and its way to the engines."""
        from workloads.grpo.carriers import AdapterFiles, FullWeights
        from workloads.grpo.weight_sync import WeightSync
        from workloads.models.load import attach_tuner, load_model
        from workloads.train.engine import DTYPES, hold_partitioned, make_engine

        dtype = DTYPES["float32"]
        training = TrainingSpec(torch_dtype="float32", deepspeed=policy.stage, learning_rate=1e-4)
        with hold_partitioned(training):
            model = attach_tuner(load_model(policy.model, dtype), policy.tuner, seed=0)
        self.engine = make_engine(model, training, passes=1)
        module = self.engine.module
        carrier = (
            AdapterFiles(module, rollout, self.rank, adapters)
            if adapters
            else FullWeights(module, dtype, rollout, "gloo", self.rank)
        )
        self.error = 0.0
        self.sync = WeightSync(
            carrier, rollout, pool, self.rank, CANARY, self.score, stops=lambda: False
        )

    def disturb(self, seed: int) -> None:
        """Changes all weights that are trained, alike on all workers."""
        import torch

        from workloads.train.state import trained_parameters

        noise = torch.Generator().manual_seed(seed)
        for _, parameter in trained_parameters(self.engine.module):
            with torch.no_grad(), _writable(parameter):
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)

    def misjudge(self, error: float) -> None:
        """From now on the trainer's log-probabilities are wrong by so much."""
        self.error = error

    def score(self, token_ids: Any) -> list[float]:
        """Log-probability of each token but the first."""
        from workloads.grpo.forward import text_logps

        self.engine.eval()
        logps = text_logps(self.engine, token_ids, self.engine.device)
        return [logp + self.error for logp in logps]

    def update(self, version: int) -> list[float]:
        """Updates the engines. Returns the differences that were measured in doing so."""
        before = len(self.sync.differences)
        self.sync.update(version)
        differences: list[float] = self.sync.differences[before:]
        return differences


def _writable(parameter: nn.Parameter) -> Any:
    """Makes a weight whole, whose changes on the first worker hold for all."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(
        [parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")
    )


class Ranks:
    """The train workers, which are all asked the same at once."""

    def __init__(self, actors: list[Any]) -> None:
        self.actors = actors

    def ask(self, method: str, *args: Any) -> Any:
        """What the first answers, when all have."""
        import ray

        return ray.get([getattr(a, method).remote(*args) for a in self.actors], timeout=120)[0]

    def build(
        self,
        policy: Policy,
        handles: dict[int, Any],
        rollout: RolloutSpec = ROLLOUT,
        adapters: Path | None = None,
    ) -> Any:
        """Makes the policy. Returns the pool that stands between it and these engines."""
        import ray

        pool = ray.remote(Pool).options(num_cpus=0).remote(handles)
        self.ask("build", policy, pool, rollout, adapters)
        return pool

    def difference(self, engine: Any) -> float:
        """The mean difference of an engine's log-probabilities from the trainer's."""
        import ray

        theirs = ray.get(engine.score.remote(CANARY), timeout=60)
        mine = self.ask("score", CANARY)
        assert len(mine) == len(theirs) == len(CANARY) - 1
        return float(np.abs(np.subtract(mine, theirs)).mean())


@dataclass(frozen=True)
class Started:
    """An engine that is ready."""

    handle: Any
    pid: int
