"""Whether a plan fits where it is to run, as far as that can be told without starting anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil

from jobs.errors import ClusterError
from jobs.options import current_profile
from jobs.plan.demand import demands
from jobs.plan.fit import Node, pods, refuse_misfits, share
from jobs.plan.memory import Estimate, in_words
from jobs.plan.resolve import Plan
from jobs.spec.fields import size_bytes


def refuse_where_it_runs(plan: Plan, address: str | None) -> Iterator[str]:
    """Refuses a plan that can't fit on the cluster, pods or machine that it is meant for.

    Yields:
        What could not be told.

    Raises:
        ClusterUnfit: with the numbers.
        ClusterError: if `address` can't be reached.
    """
    profile = current_profile()
    own = profile.spec.address if profile else None
    if profile and profile.spec.kubernetes and not address:
        place = profile.place("kubernetes.workers")
        _refuse(plan, pods(profile.spec.kubernetes.workers), f"the worker pods of {place}")
    elif address or own:
        try:
            nodes = _nodes_at((address or own or "").rstrip("/"))
        except ClusterError as error:
            if address:
                raise
            yield f"not compared with the cluster of the profile: {error.message}"
            return
        _refuse(plan, nodes, f"the cluster at {address or own}")
    else:
        from cluster.local import this_machine

        refuse_misfits(demands(plan), (this_machine(),), "this machine")


def memory_lines(estimates: Mapping[str, Estimate], address: str | None) -> Iterator[str]:
    """What each training stage will hold in memory, and whether there is so much of it.

    That is told where the memory is known: of this machine's, and of a profile's pods.
    """
    yield from ["", "memory:"] * bool(estimates)
    for name, estimate in estimates.items():
        memory = None if estimate.on_gpu else _memory_of_a_worker(estimate.workers, address)
        verdict = f" ({estimate.verdict(memory)} in {in_words(memory)})" if memory else ""
        yield f"  {name}: {estimate}{verdict}"


def _memory_of_a_worker(workers: int, address: str | None) -> float | None:
    profile = current_profile()
    if profile and profile.spec.kubernetes and not address:
        pods = profile.spec.kubernetes.workers
        return size_bytes(pods.memory) / ceil(workers / pods.max)
    if address or (profile and profile.spec.address):
        return None
    from cluster.local import this_machine

    return this_machine().memory / workers


def _refuse(plan: Plan, nodes: Sequence[Node], where: str) -> None:
    refuse_misfits(demands(plan, lambda processes: share(nodes, processes)), nodes, where)


def _nodes_at(url: str) -> tuple[Node, ...]:
    from cluster.ray_jobs import RayJobs

    return RayJobs(url).nodes()
