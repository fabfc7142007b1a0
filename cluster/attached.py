"""A Ray cluster that is running already: by address, or the one whose job this process is."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from cluster import driver
from cluster.fingerprint import fingerprint
from cluster.runtime_env import attached_env
from jobs.errors import ClusterError

_CPUS_PER_WORKER = 4
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_LOOK_S = 60.0


class AttachedCluster:
    """Connects to a cluster when it is first needed, and leaves it running."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connected = False

    def cpus_per_worker(self, workers: int) -> int:  # noqa: ARG002
        """As many as the spec's reference says for clusters."""
        return _CPUS_PER_WORKER

    @property
    def own_address(self) -> str:
        """The address of this machine that Ray uses."""
        import ray

        return str(ray.util.get_node_ip_address())

    def connect(self) -> None:
        """Connects, once. From outside of the cluster, our own packages go along.

        Raises:
            ClusterError: if the cluster can't be reached, or a node of it has other code.
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
        self._connected = True
        driver.route_logs()
        if within:
            _refuse_other_code(_codes_of_nodes())

    def __enter__(self) -> AttachedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False


def _codes_of_nodes() -> dict[str, str]:
    """The fingerprint of our code on each node, by its address; or why it has none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_own_code)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    asked = {}
    for node, address in nodes.items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[look.options(scheduling_strategy=there).remote()] = address
    codes = {}
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_S)
    for answer in done:
        try:
            codes[asked[answer]] = ray.get(answer)
        except ray.exceptions.RayError as error:
            codes[asked[answer]] = f"none: {type(error).__name__}"
    return codes


def _own_code() -> str:
    return fingerprint()


def _refuse_other_code(codes: dict[str, str]) -> None:
    own = fingerprint()
    others = {address: code for address, code in codes.items() if code != own}
    if others:
        listed = ", ".join(f"{code[:12]} on {address}" for address, code in sorted(others.items()))
        raise ClusterError(
            f"this driver's code is {own[:12]} (raysmith of {sys.prefix}), and there is {listed}",
            "have one version of raysmith on all nodes, or send it along: `raysmith submit`",
        )
