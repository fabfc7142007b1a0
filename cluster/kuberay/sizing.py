"""How many pods a plan needs."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.errors import UserError
from jobs.plan.demand import Demand, Processes
from jobs.spec.kubernetes_site import WorkersSpec


def pods_needed(demands: Sequence[Demand], workers: WorkersSpec) -> int:
    """The pods that the greediest stage needs.

    Raises:
        UserError: if a process fits in no pod, or the profile has too few, with all of it.
    """
    problems = []
    most = 1
    for demand in demands:
        large = [group for group in demand.processes if not _fits(group, workers)]
        problems += [
            f"stages.{demand.stage}.{group.field}: {group}, and a pod has {workers.cpus} CPU and "
            f"{workers.gpus} GPU"
            for group in large
        ]
        needed = 0 if large else _packed(demand, workers)
        if needed > workers.max:
            asked = "; ".join(map(str, demand.processes))
            problems.append(
                f"stages.{demand.stage}: {asked}: that is {needed} pods with {workers.cpus} CPU "
                f"and {workers.gpus} GPU, and the profile has at most {workers.max}"
            )
        most = max(most, needed)
    if problems:
        raise UserError(
            "the plan does not fit into the profile's pods:\n  " + "\n  ".join(problems),
            "ask for less, or for more at kubernetes.workers (cpus, gpus, max) of the profile",
        )
    return most


def _fits(group: Processes, workers: WorkersSpec) -> bool:
    return group.cpus <= workers.cpus and group.gpus <= workers.gpus


def _packed(demand: Demand, workers: WorkersSpec) -> int:
    """Pods that hold all processes: each goes to the first that has room, the largest first."""
    sizes = [(g.gpus, g.cpus) for g in demand.processes for _ in range(g.count)]
    free: list[tuple[float, float]] = []
    for gpus, cpus in sorted(sizes, reverse=True):
        for index, (free_gpus, free_cpus) in enumerate(free):
            if gpus <= free_gpus and cpus <= free_cpus:
                free[index] = (free_gpus - gpus, free_cpus - cpus)
                break
        else:
            free.append((workers.gpus - gpus, workers.cpus - cpus))
    return len(free)
