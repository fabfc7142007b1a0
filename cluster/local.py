"""A Ray of our own on this machine, which lives as long as the run and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from threading import Condition

from cluster import driver, guardian
from cluster.bookings import Bookings
from cluster.placement import Tell
from jobs.errors import ClusterError
from jobs.plan.demand import DATA, Demand, Processes, demand
from jobs.plan.fit import Node
from jobs.plan.resolve import StagePlan

_ENVIRONMENT = driver.ENVIRONMENT | {
    "RAY_AUTH_MODE": "token",
    # What trains together here listens to nobody else.
    "GLOO_SOCKET_IFNAME": "lo",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Actors that wait and need no core are many here; Ray would warn of more than the cores.
    "RAY_worker_maximum_startup_concurrency": "64",
    "PYTHONSAFEPATH": "1",
    # Nobody takes this machine away, and the watch for it is a process of its own.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


_LOOK_EVERY_S = 1.0


def cores() -> int:
    """Cores that this process may use: those it is bound to, within its group's quota."""
    bound = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().partition(" ")
        if limit.isdigit():
            return max(min(bound, round(int(limit) / int(period))), 1)
    return bound


def this_machine() -> Node:
    """This machine as a node. Its cores are shared by as many processes as a job has."""
    return Node("this machine", inf, _gpus(), _memory_bytes())


def _gpus() -> int:
    """GPUs that this process may use, counted without their libraries."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    driver_lists = Path("/proc/driver/nvidia/gpus")
    if driver_lists.is_dir():
        return len(list(driver_lists.iterdir()))
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _memory_bytes() -> float:
    """Memory of this machine, or of this process's group where that is less."""
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(own, int(text)) if text.isdigit() else own


class LocalCluster:
    """Starts Ray when it is first needed, and ends it with the `with` block."""

    def __init__(self, workers: int, cpus_per_worker: int | None, dashboard: bool = False) -> None:
        """`workers` and `cpus_per_worker` are the most that any stage asks for."""
        self._needed = workers * (cpus_per_worker or self.cpus_per_worker(workers))
        self._dashboard = dashboard
        self._changed = Condition()
        # A booking lasts until it is given back: who has it is in this process.
        self._bookings = Bookings(clock=lambda: 0.0)
        self._folder: Path | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    def cpus_per_worker(self, workers: int) -> int:
        """An equal share of this machine's cores, at least one."""
        return max(cores() // workers, 1)

    @contextmanager
    def room(self, stage: StagePlan, owner: str, tell: Tell) -> Iterator[None]:
        """Waits until the cores and GPUs that a stage computes with are free of other stages'.

        There are as many as the largest stage takes, so none waits for ever. Stages that leave
        their cores to us take all of them, and so run one after another.
        """
        cpus = max(cores(), self._needed)
        machine = (Node("this machine", cpus, gpus := _gpus()),)
        wanted = _within(
            demand(stage, self.cpus_per_worker(stage.spec.processes_at_once)), cpus, gpus
        )
        try:
            with self._changed:
                while reason := self._bookings.request(owner, wanted, machine):
                    tell(reason)
                    self._changed.wait(_LOOK_EVERY_S)
            yield
        finally:
            with self._changed:
                self._bookings.release(owner)
                self._changed.notify_all()

    def lost_nodes(self, owner: str, wait_s: float = 0) -> tuple[str, ...]:  # noqa: ARG002
        """None: it ends with this machine."""
        return ()

    def nodes_without(self, folder: Path) -> tuple[str, ...]:  # noqa: ARG002
        """None: there is this machine alone."""
        return ()

    @property
    def own_address(self) -> str:
        """All processes are on this machine."""
        return "127.0.0.1"

    def connect(self) -> None:
        """Starts Ray, once, from the thread that lives as long as the cluster shall.

        Raises:
            ClusterError: if it does not start.
        """
        if self._folder:
            return
        # Ray's sockets lie in here, whose paths have room for about 100 characters.
        folder = Path(tempfile.mkdtemp(prefix="raysmith-", dir="/tmp"))
        os.environ.update(_ENVIRONMENT | {guardian.MARK: str(folder)})
        # Ray keeps the first token that a process has had.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        self._guardian = guardian.watch(folder)
        # Ray reads the environment above when it is imported, not when it starts.
        import ray

        try:
            ray.init(
                address="local",
                # One more than is worked with, for the tasks that read data beside training.
                num_cpus=max(cores(), self._needed) + 1,
                include_dashboard=self._dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
        except Exception as error:  # Ray raises just this where it takes too long to start
            self._end_guardian()
            raise ClusterError(
                f"Ray did not start on this machine: {error}",
                "see that memory and the folder for temporary files have room, then run again",
            ) from error
        self._folder = folder
        driver.route_logs()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder:
            import ray

            ray.shutdown()
            self._folder = None
            self._end_guardian()

    def _end_guardian(self) -> None:
        """Lets the guardian clean up, as if this process had ended, and waits for it."""
        if self._guardian:
            self._guardian.communicate()
            self._guardian = None
        os.environ.pop(guardian.MARK, None)


def _within(wanted: Demand, cpus: int, gpus: int) -> Demand:
    """What a stage computes with, as one process that has a place on a machine of that size.

    Tasks that read data have a core of their own, see `connect`.
    """
    groups = [group for group in wanted.processes if group.role != DATA]
    needed = sum(group.count * group.cpus for group in groups)
    on_gpus = sum(group.all_gpus for group in groups)
    whole = Processes("stage", 1, min(needed, cpus), min(on_gpus, gpus))
    return Demand(wanted.stage, (whole,))
