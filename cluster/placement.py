"""Lets a stage start on a shared cluster once all that it needs has a place, and says what it
waits for meanwhile.

Three steps: what could never fit is refused with numbers; what fits is booked among raysmith's jobs
(see `cluster.bookings`); then a placement group of everything is asked of Ray, which shows that
nobody else holds it, and makes an autoscaler add nodes. The group is given back at once, since Ray
Train makes its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.bookings import LEASE_S, Bookings
from jobs.errors import ClusterError
from jobs.plan.demand import Demand
from jobs.plan.fit import Node, refuse_misfits

Tell = Callable[[str], None]
"""Told what is waited for, each time that it is looked at."""

_LOOK_EVERY_S = 1.0
_RENEW_EVERY_S = LEASE_S / 6
_ANSWER_S = 20.0
_NAMESPACE = "raysmith"


class Places:
    """The nodes of the connected cluster, and what this process has booked on them."""

    def __init__(self) -> None:
        self._most: tuple[Node, ...] = ()
        self._claims: set[str] = set()

    def nodes(self) -> dict[str, Node]:
        """The nodes that are alive, by id."""
        import ray

        alive = {node["NodeID"]: _node(node) for node in ray.nodes() if node["Alive"]}
        if _size(alive.values()) >= _size(self._most):
            self._most = tuple(alive.values())
        return alive

    def limit(self) -> tuple[Node, ...]:
        """The most nodes that there have been at a time, or that an autoscaler may make.

        A node that was lost counts until another takes its place: it may come back.
        """
        self.nodes()
        return _or_makeable(self._most)

    @contextmanager
    def room(self, demand: Demand, owner: str, tell: Tell) -> Iterator[None]:
        """Waits until a demand has its place, and keeps it booked until the end of the block.

        Raises:
            ClusterUnfit: if it has no place on all nodes together.
            ClusterError: if the cluster does not answer.
        """
        refuse_misfits([demand], self.limit(), "the cluster")
        self._claims.add(owner)
        ended = threading.Event()
        try:
            self._book(demand, owner, tell)
            self._probe(demand, owner, tell)
            threading.Thread(
                target=self._renew, args=(demand, owner, ended), name="booking", daemon=True
            ).start()
            yield
        finally:
            ended.set()
            self._release(owner)

    def release_all(self) -> None:
        """Gives back everything, as when a run is stopped at once."""
        for owner in tuple(self._claims):
            self._release(owner)

    def _book(self, demand: Demand, owner: str, tell: Tell) -> None:
        while reason := self._request(demand, owner):
            tell(reason)
            time.sleep(_LOOK_EVERY_S)

    def _probe(self, demand: Demand, owner: str, tell: Tell) -> None:
        from ray.util.placement_group import placement_group, remove_placement_group

        bundles = [
            {name: value for name, value in (("CPU", group.cpus), ("GPU", group.gpus)) if value}
            for group in demand.processes
            for _ in range(group.count)
        ]
        group = placement_group([bundle for bundle in bundles if bundle], strategy="PACK")
        try:
            while not group.wait(_LOOK_EVERY_S):
                tell(f"{demand.total}, which others use, or which nodes are to bring")
                self._request(demand, owner)
        finally:
            remove_placement_group(group)

    def _renew(self, demand: Demand, owner: str, ended: threading.Event) -> None:
        while not ended.wait(_RENEW_EVERY_S):
            try:
                self._request(demand, owner)
            except ClusterError:
                continue  # The cluster is out of reach; the booking lasts a while without this.

    def _request(self, demand: Demand, owner: str) -> str | None:
        import ray
        from ray.exceptions import RayError

        nodes = _or_makeable(tuple(self.nodes().values()))
        try:
            answer = _bookings().request.remote(owner, demand, nodes)
            reason: str | None = ray.get(answer, timeout=_ANSWER_S)
        except (RayError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"the cluster does not say whether it has room: {error}",
                "see that its head is up; the same command tries again",
            ) from error
        return reason

    def _release(self, owner: str) -> None:
        import ray
        from ray.exceptions import RayError

        self._claims.discard(owner)
        if ray.is_initialized():
            try:
                ray.get(_bookings().release.remote(owner), timeout=_ANSWER_S)
            except (RayError, RuntimeError, ValueError):
                return  # It runs out by itself.


def _bookings() -> Any:
    """The one actor that all jobs ask. One that was lost is made anew; renewals fill it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [n["NodeID"] for n in ray.nodes() if n["Alive"] and _HEAD in n["Resources"]]
    place: Any = NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
    return (
        ray.remote(Bookings)
        .options(
            name="bookings",
            namespace=_NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=3,
            scheduling_strategy=place,
        )
        .remote()
    )


_HEAD = "node:__internal_head__"


def _node(node: dict[str, Any]) -> Node:
    has = node["Resources"]
    return Node(node["NodeManagerAddress"], has.get("CPU", 0), has.get("GPU", 0))


def _makeable() -> tuple[Node, ...]:
    """The nodes that an autoscaler may make at most; none where there is no autoscaler."""
    import ray

    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return tuple(
        Node(f"{group.name} {n + 1}", group.resources.get("CPU", 0), group.resources.get("GPU", 0))
        for group in groups
        for n in range(group.max_count)
    )


def _or_makeable(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """These nodes, or those that an autoscaler may make where they are more."""
    makeable = _makeable()
    return makeable if _size(makeable) > _size(nodes) else nodes


def _size(nodes: Iterable[Node]) -> tuple[float, float]:
    listed = tuple(nodes)
    return sum(node.gpus for node in listed), sum(node.cpus for node in listed)
