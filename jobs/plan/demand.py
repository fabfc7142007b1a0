"""What each stage asks of a cluster: how many processes of which size, at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobs.plan.resolve import Plan, StagePlan
from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.job import Stage
from jobs.spec.merge import MergeSpec
from jobs.spec.rewards import RewardSpec
from jobs.spec.sample import SampleSpec
from jobs.spec.serve import ServeSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec

DEFAULT_CPUS = 4
"""CPU cores of a process on a cluster, where the spec leaves it open."""


@dataclass(frozen=True)
class Processes:
    """Processes of one role, all alike, each of which must lie on one node."""

    role: str
    """Such as `train worker`."""
    count: int
    cpus: int
    """CPU cores of each."""
    gpus: float
    """GPUs of each."""
    field: str = "resources"
    """The section of the stage that says how many there are."""

    @property
    def all_gpus(self) -> float:
        """GPUs of all of them."""
        return self.count * self.gpus

    def __str__(self) -> str:
        plural = "" if self.count == 1 else "s"
        size = f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.count} {self.role}{plural} with {size}{' each' if plural else ''}"


@dataclass(frozen=True)
class Demand:
    """What a stage needs at the same time, all of it, to get on."""

    stage: str
    processes: tuple[Processes, ...]

    @property
    def gpus(self) -> float:
        """GPUs of all processes."""
        return sum(group.all_gpus for group in self.processes)

    @property
    def cpus(self) -> int:
        """CPU cores of all processes."""
        return sum(group.count * group.cpus for group in self.processes)

    @property
    def total(self) -> str:
        """CPUs and GPUs of all processes, in words."""
        return f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    @property
    def workers(self) -> int:
        """Processes that compute: all but those that read data."""
        return sum(group.count for group in self.processes if group.role != DATA)


DATA = "data task"
"""The role of the tasks that read and prepare rows beside the others."""


def demands(plan: Plan, cpus: int | Callable[[int], int] = DEFAULT_CPUS) -> tuple[Demand, ...]:
    """What each stage of a plan needs.

    `cpus` is what a process has that the spec says nothing of, or tells it from how many processes
    compute at once.
    """
    return tuple(
        demand(stage, cpus if isinstance(cpus, int) else cpus(stage.spec.processes_at_once))
        for stage in plan.stages
    )


def demand(stage: StagePlan, cpus: int) -> Demand:
    """What one stage needs, where a process has so many cores that the spec says nothing of."""
    return Demand(stage.name, tuple(_of(stage.spec, cpus)))


def _of(spec: Stage, cpus: int) -> Iterable[Processes]:
    data = Processes(DATA, 1, 1, 0, "dataset")
    if isinstance(spec, SweepSpec):
        at_once = spec.max_concurrent_trials or 1
        trial = [group for group in _of(spec.trial, cpus) if group.role != DATA]
        grown = (
            Processes(f"{g.role} of a trial", g.count * at_once, g.cpus, g.gpus, f"trial.{g.field}")
            for g in trial
        )
        return (*grown, data)
    if isinstance(spec, SftSpec):
        # Rows are prepared before the workers start, on their cores, and fed to them without any.
        return (_trainers(spec, cpus),)
    if isinstance(spec, GrpoSpec):
        return (_trainers(spec, cpus), *_engines(spec, cpus), *_judges(spec.rewards))
    if isinstance(spec, SampleSpec | EvaluateSpec):
        pool = spec.engine
        own = pool.cpus_per_actor or cpus
        engines = Processes("engine", pool.actors, own, pool.gpus_per_actor or 0, "engine")
        rewards = _judges(spec.rewards) if isinstance(spec, SampleSpec) else ()
        return (engines, *rewards, data)
    if isinstance(spec, ServeSpec):
        own = spec.cpus_per_replica or cpus
        return (
            Processes("replica", spec.replicas.max, own, spec.gpus_per_replica or 0, "replicas"),
        )
    # A merge adds and writes weights in one of Ray's tasks, which has one core.
    return (Processes("task", 1, 1 if isinstance(spec, MergeSpec) else cpus, 0, "kind"),)


def _trainers(spec: SftSpec | GrpoSpec, cpus: int) -> Processes:
    resources = spec.resources
    own = resources.cpus_per_worker or cpus
    return Processes("train worker", resources.workers, own, resources.gpus_per_worker)


def _engines(spec: GrpoSpec, cpus: int) -> Iterable[Processes]:
    rollout = spec.rollout
    # Colocated engines are on the workers' GPUs.
    gpus = 0 if rollout.colocate else rollout.gpus_per_actor or 0
    # Engines that take turns with the workers compute on their cores.
    own = (rollout.cpus_per_actor or cpus) if rollout.max_staleness else 0
    yield Processes("rollout engine", rollout.actors, own, gpus, "rollout")


def _judges(rewards: Iterable[RewardSpec]) -> Iterable[Processes]:
    for reward in rewards:
        if reward.gpus_per_worker:
            count = reward.workers or 1
            yield Processes("reward worker", count, 0, reward.gpus_per_worker, "rewards")
