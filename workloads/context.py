"""What a stage is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.plan.resolve import StagePlan
from storage.layout import AttemptLayout, StageLayout
from storage.manifest import JSON, Owner

if TYPE_CHECKING:
    from workloads.train.crew import Crew


class Cluster(Protocol):
    """The machines that a stage may use."""

    def connect(self) -> None:
        """Makes Ray ready in this process; does nothing the second time. For the main thread.

        Raises:
            ClusterError: if Ray can't be started or reached.
        """

    @property
    def own_address(self) -> str:
        """Where workers reach this process."""

    def cpus_per_worker(self, workers: int) -> int:
        """Cores for each of `workers` workers where the spec leaves it open."""


class SharedCluster(Cluster, Protocol):
    """The machines that a run uses, perhaps beside others."""

    def room(
        self, stage: StagePlan, owner: str, tell: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Waits until there is room for all that a stage needs, and keeps it for the block.

        `owner` stands for the stage in this run. `tell` is told what is waited for, every second;
        what it raises ends the wait. May be called from several threads.

        Raises:
            ClusterUnfit: if there never will be.
        """

    def lost_nodes(self, owner: str, wait_s: float = 0) -> tuple[str, ...]:
        """The nodes that there were when the owner was given its room, and that are gone.

        Where none is, it waits up to `wait_s` seconds for Ray to notice one.
        """

    def nodes_without(self, folder: Path) -> tuple[str, ...]:
        """The nodes that do not have a folder of this machine."""


class Events(Protocol):
    """Where a stage tells what happened."""

    def __call__(self, kind: str, **fields: Any) -> None:
        """Records an event of the stage."""


@dataclass(frozen=True)
class Shared:
    """What the trials of a sweep have in common."""

    crew: Crew
    """Workers that stay from one trial to the next."""
    data: Path
    """The folder of tokenized data sets, a folder to each."""
    owner: Owner
    """Who writes these."""


@dataclass(frozen=True)
class StageContext:
    """One attempt at one stage."""

    stage: StagePlan
    seed: int
    base_folders: tuple[str, ...]
    """Where relative paths of the spec are looked up."""
    owner: Owner
    """Who writes: run, stage, key, attempt."""
    layout: StageLayout
    attempt: AttemptLayout
    artifact: Path
    """The folder to leave the artifact in."""
    inputs: Mapping[str, Path]
    """Artifacts of earlier stages by the field that names them."""
    cluster: Cluster
    event: Events
    note: Callable[[str], None]
    """Tells the person who watches."""
    shared: Shared | None = None
    """Set where the stage is a trial of a sweep."""
    made_of: Mapping[str, JSON] = field(default_factory=dict)
    """What the artifact's manifest says of its inputs, the code and the libraries."""

    def meta(self, **said: JSON) -> dict[str, JSON]:
        """What to commit the artifact with: what the stage says of it, and what it is made of."""
        return {**said, "made_of": dict(self.made_of)}


@dataclass(frozen=True)
class StageResult:
    """How an attempt ended, when it did not fail."""

    finished: bool
    """False when it was asked to stop; its checkpoint is committed."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part of the work."""
