"""A Ray cluster that is running already: by address, or the one whose job this process is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cluster import driver
from cluster.fingerprint import fingerprint, installed_fingerprint
from cluster.placement import Places, Tell
from cluster.runtime_env import attached_env
from jobs.errors import ClusterError, ClusterUnfit
from jobs.plan.demand import demand
from jobs.plan.fit import Node, share
from jobs.plan.resolve import StagePlan

_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_LOOK_S = 60.0
_POLL_S = 0.5
Answer = TypeVar("Answer")


class AttachedCluster:
    """Connects to a cluster when it is first needed, and leaves it running."""

    def __init__(self, address: str, *, ship_code: bool = False) -> None:
        """`ship_code` is whether ours may run where nodes have another version installed."""
        self._address = address
        self._ship_code = ship_code
        self._connected = False
        self._places = Places()
        self._nodes: dict[str, dict[str, Node]] = {}
        """Those that were alive when an owner was given its room, by owner and id."""

    def cpus_per_worker(self, workers: int) -> int:
        """An equal share of what the nodes have, with one core left for data."""
        return share(self._places.limit(), workers)

    @contextmanager
    def room(self, stage: StagePlan, owner: str, tell: Tell) -> Iterator[None]:
        """See `Cluster`."""
        wanted = demand(stage, self.cpus_per_worker(stage.spec.processes_at_once))
        with self._places.room(wanted, owner, tell):
            self._nodes[owner] = self._places.nodes()
            yield

    def lost_nodes(self, owner: str, wait_s: float = 0) -> tuple[str, ...]:
        """See `Cluster`."""
        deadline, had = time.monotonic() + wait_s, self._nodes.get(owner, {})
        while not (lost := self._lost(had)) and had and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return lost

    def nodes_without(self, folder: Path) -> tuple[str, ...]:
        """See `Cluster`. A node that does not answer is left out."""
        if not self._connected:
            return ()
        from ray.exceptions import RayError

        try:
            found = _on_each_node(partial(_has_folder, folder))
        except (RayError, RuntimeError):
            return ()  # The cluster itself is out of reach.
        return tuple(address for address, has in found.items() if has is False)

    def _lost(self, had: Mapping[str, Node]) -> tuple[str, ...]:
        if not had:
            return ()
        from ray.exceptions import RayError

        try:
            alive = self._places.nodes()
        except (RayError, RuntimeError):
            return ()  # The cluster itself is out of reach.
        return tuple(node.name for key, node in had.items() if key not in alive)

    @property
    def own_address(self) -> str:
        """The address of this machine that Ray uses."""
        import ray

        return str(ray.util.get_node_ip_address())

    def connect(self) -> None:
        """Connects, once. From outside of the cluster, our own packages go along.

        Raises:
            ClusterError: if the cluster can't be reached.
            ClusterUnfit: if a node of it has other code.
        """
        if self._connected:
            return
        os.environ.update(driver.ENVIRONMENT)
        import ray
        from ray.exceptions import RayError

        # Within a job, Ray takes what travels with it from the job itself.
        within = _IN_A_JOB in os.environ
        options: dict[str, Any] = {} if within else {"runtime_env": attached_env()}
        try:
            ray.init(
                address=self._address, log_to_driver=False, logging_level=logging.ERROR, **options
            )
        except (RayError, RuntimeError, OSError, ValueError) as error:
            raise ClusterError(
                f"no Ray cluster could be reached at {self._address!r}: {error}",
                "check the address, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the cluster's",
            ) from error
        driver.route_logs()
        try:
            if within or not self._ship_code:
                _refuse_other_code(_on_each_node(_running_code if within else _installed_code))
        except ClusterError:
            ray.shutdown()
            raise
        self._connected = True

    def __enter__(self) -> AttachedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected:
            import ray

            self._places.release_all()
            ray.shutdown()
            self._connected = False


def _on_each_node(question: Callable[[], Answer]) -> dict[str, Answer | str]:
    """What each node answers, or why it can't, by its address; who takes too long is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_called)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    asked = {}
    for node, address in nodes.items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[look.options(scheduling_strategy=there).remote(question)] = address
    answers: dict[str, Answer | str] = {}
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S)
    for answer in done:
        try:
            answers[asked[answer]] = ray.get(answer)
        except ray.exceptions.RayError as error:
            answers[asked[answer]] = f"none ({type(error).__name__})"
    return answers


def _called(question: Callable[[], Answer]) -> Answer:
    return question()


def _has_folder(folder: Path) -> bool:
    return folder.is_dir()


def _short(code: str) -> str:
    return code if " " in code else code[:12]


def _running_code() -> str:
    return fingerprint()


def _installed_code() -> str | None:
    return installed_fingerprint()


def _refuse_other_code(codes: Mapping[str, str | None]) -> None:
    """Refuses nodes whose code has another fingerprint; those that have none of ours are well."""
    own = fingerprint()
    others = {address: code for address, code in codes.items() if code and code != own}
    if others:
        listed = ", ".join(f"{_short(code)} on {address}" for address, code in others.items())
        raise ClusterUnfit(
            f"raysmith is {own[:12]} here, and {listed}",
            "install one version on all machines; or run this machine's everywhere: --ship-code",
        )
