"""A Ray cluster that is running already: by address, or the one whose job this process is."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

from cluster import driver
from jobs.errors import ClusterError

_PACKAGES = ("jobs", "cluster", "workloads", "storage")

_CPUS_PER_WORKER = 4


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
        """Connects, once, and ships our own packages to the workers.

        Raises:
            ClusterError: if the cluster can't be reached.
        """
        if self._connected:
            return
        os.environ.update(driver.ENVIRONMENT)
        import ray
        from ray.exceptions import RayError

        folders = [
            Path(spec.origin).parent
            for name in _PACKAGES
            if (spec := find_spec(name)) and spec.origin
        ]
        try:
            ray.init(
                address=self._address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={
                    "py_modules": [str(folder) for folder in folders],
                    "env_vars": {"PYTHONSAFEPATH": "1"},
                },
            )
        except (RayError, RuntimeError, OSError, ValueError) as error:
            raise ClusterError(
                f"no Ray cluster could be reached at {self._address!r}: {error}",
                "check the address, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the cluster's",
            ) from error
        self._connected = True
        driver.route_logs()

    def __enter__(self) -> AttachedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False
