"""Whether a plan fits where it is to run, as far as that can be told without starting anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.errors import ClusterError
from jobs.options import current_profile
from jobs.plan.demand import demands
from jobs.plan.fit import Node, pods, refuse_misfits, share
from jobs.plan.resolve import Plan


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


def _refuse(plan: Plan, nodes: Sequence[Node], where: str) -> None:
    refuse_misfits(demands(plan, lambda processes: share(nodes, processes)), nodes, where)


def _nodes_at(url: str) -> tuple[Node, ...]:
    from cluster.ray_jobs import RayJobs

    return RayJobs(url).nodes()
