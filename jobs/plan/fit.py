"""Whether what a stage needs has a place on given nodes, and with what numbers it has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import inf

from jobs.errors import ClusterUnfit
from jobs.plan.demand import DATA, DEFAULT_CPUS, Demand, Processes
from jobs.spec.kubernetes_site import WorkersSpec

LEAST_WORKER_BYTES = 400_000_000
"""Memory that a train worker holds of its own with the smallest of models, as measured."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    name: str
    cpus: float
    gpus: float = 0
    memory: float = inf
    """Bytes; without end where it is not known."""


@dataclass(frozen=True)
class Misfit:
    """A stage that has no place, and what to do about it."""

    stage: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"stage {self.stage} {self.message}\n  fix: {self.remedy}"


def misfits(demands: Iterable[Demand], nodes: Sequence[Node]) -> tuple[Misfit, ...]:
    """The stages that could not start even if the nodes had nothing else to do."""
    return tuple(_misfit(demand, nodes) for demand in demands if placed(demand, nodes) is None)


def placed(demand: Demand, nodes: Sequence[Node]) -> tuple[Node, ...] | None:
    """What the nodes have left with all processes of a demand on them; None where they do not fit.

    Each process lies on one node. Groups of processes are tried in every order, each process on
    the first node that has room.
    """
    # As large ones are hardest to place, their order is the likeliest.
    groups = sorted(demand.processes, key=lambda g: (g.gpus, g.cpus), reverse=True)
    for order in permutations(groups):
        left: list[Node] | None = list(nodes)
        for group in order:
            left = _with(group, left) if left is not None else None
        if left is not None:
            return tuple(left)
    return None


def _with(group: Processes, nodes: list[Node]) -> list[Node] | None:
    """What nodes have left beside the processes of a group."""
    left, count = [], group.count
    for node in nodes:
        here = min(count, _room(group, node))
        count -= here
        left.append(
            replace(
                node,
                cpus=node.cpus - here * group.cpus,
                gpus=node.gpus - here * group.gpus,
                memory=node.memory - here * least_bytes(group),
            )
        )
    return None if count else left


def _room(group: Processes, node: Node) -> int:
    """How many of a group's processes a node has room for."""
    wanted = ((group.cpus, node.cpus), (group.gpus, node.gpus), (least_bytes(group), node.memory))
    # A little more, since shares such as 0.1 of a GPU don't add up to 1.
    most = [int(has / asks + 1e-9) for asks, has in wanted if asks and has != inf]
    return max(min(most, default=group.count), 0)


def least_bytes(group: Processes) -> int:
    """Memory that a process of a group holds whatever its model."""
    return LEAST_WORKER_BYTES if group.role.startswith("train worker") else 0


def share(nodes: Sequence[Node], processes: int) -> int:
    """CPU cores of each of so many processes where the spec says nothing of it: at least 1, at most
    `DEFAULT_CPUS`, so that all have a place and one core is left for tasks that read data."""
    for cpus in range(DEFAULT_CPUS, 1, -1):
        places = sum(int(node.cpus // cpus) for node in nodes)
        # Data have what is over on a node, else a place of a process.
        places -= not any(node.cpus % cpus >= 1 for node in nodes)
        if places >= processes:
            return cpus
    return 1


def pods(workers: WorkersSpec) -> tuple[Node, ...]:
    """The nodes that a profile's Kubernetes cluster makes of its worker pods."""
    return tuple(
        Node(f"worker pod {n + 1}", workers.cpus, workers.gpus) for n in range(workers.max)
    )


def _misfit(demand: Demand, nodes: Sequence[Node]) -> Misfit:
    wanted = "; ".join(map(str, demand.processes))
    memory = sum(group.count * least_bytes(group) for group in demand.processes)
    lacks = []
    if demand.cpus > (cpus := sum(node.cpus for node in nodes)):
        lacks.append(f"{demand.cpus} CPUs of {cpus:g}")
    if demand.gpus > (gpus := sum(node.gpus for node in nodes)):
        lacks.append(f"{demand.gpus:g} GPUs of {gpus:g}")
    if memory > (has := sum(node.memory for node in nodes)):
        lacks.append(f"at least {memory / 1e9:.1f} GB of memory of {has / 1e9:.1f} GB")
    if lacks:
        why = f"wants {', and '.join(lacks)} that there are"
    else:
        why = "finds no nodes that hold its processes, each of which lies on one"
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    there = ""
    if largest and largest.cpus != inf:
        count = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
        there = f"; the largest of {count} has {largest.cpus:g} CPU and {largest.gpus:g} GPU"
    return Misfit(demand.stage, f"{why}: it needs {wanted}{there}", _remedy(demand))


def _remedy(demand: Demand) -> str:
    fields = []
    for group in demand.processes:
        if group.role != DATA and group.field in _COUNTS_AND_SIZES:
            count, cpus, gpus = _COUNTS_AND_SIZES[group.field]
            fields += [count, gpus if group.gpus else cpus]
    names = ", ".join(f"stages.{demand.stage}.{name}" for name in dict.fromkeys(fields))
    return f"lower {names}, or use larger or more nodes" if names else "use larger or more nodes"


def _names(section: str, count: str, each: str) -> tuple[str, str, str]:
    return f"{section}{count}", f"{section}cpus_per_{each}", f"{section}gpus_per_{each}"


_COUNTS_AND_SIZES = {
    "resources": _names("resources.", "workers", "worker"),
    "trial.resources": _names("trial.resources.", "workers", "worker"),
    "rollout": _names("rollout.", "actors", "actor"),
    "trial.rollout": _names("trial.rollout.", "actors", "actor"),
    "engine": _names("engine.", "actors", "actor"),
    "replicas": _names("", "replicas.max", "replica"),
}
"""The fields that say how many processes of a section there are, their cores, and their GPUs."""


def refuse_misfits(demands: Iterable[Demand], nodes: Sequence[Node], where: str) -> None:
    """Refuses demands that no waiting could place. `where` is what the nodes are.

    Raises:
        ClusterUnfit: with the numbers of every stage that has no place.
    """
    if found := misfits(demands, nodes):
        reasons = "; ".join(f"stage {misfit.stage} {misfit.message}" for misfit in found)
        remedies = dict.fromkeys(misfit.remedy for misfit in found)
        raise ClusterUnfit(f"the job does not fit on {where}: {reasons}", "; ".join(remedies))
