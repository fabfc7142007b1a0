"""Train workers that are to end: they see to it themselves, or are killed where they can't."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import time
from threading import Thread
from typing import TYPE_CHECKING

from jobs.observed import Driver
from storage.durable import write_atomic
from storage.layout import AttemptLayout

if TYPE_CHECKING:
    from workloads.train.setup import TrainTask

_LOOK_EVERY_S = 2.0
_KILL_S = 20.0
_STDERR = 2

log = logging.getLogger("raysmith")


def end_when_asked(task: TrainTask) -> None:
    """Has this worker end when the controller asks for it, and say before that where it stands.

    A worker may wait for ever for what another does not send, and can't look up meanwhile.
    """
    _say_where(task.attempt)

    def look() -> None:
        while not task.attempt.end_request.exists():
            time.sleep(_LOOK_EVERY_S)
        log.error("ended, since training stood still; its threads stood here:")
        faulthandler.dump_traceback(_STDERR, all_threads=True)
        os._exit(1)

    Thread(target=look, name="end-request", daemon=True).start()


def _say_where(attempt: AttemptLayout) -> None:
    import ray
    from ray.train import get_context

    process = Driver.here()
    place = {"node": ray.get_runtime_context().get_node_id(), **process.model_dump()}
    rank = get_context().get_world_rank()
    write_atomic(attempt.worker_process(rank), json.dumps(place).encode())


def kill_workers(attempt: AttemptLayout) -> None:
    """Kills an attempt's workers where they run. Needs a connected Ray.

    For those that are stopped or wait in the kernel, and so see no request.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kill = ray.remote(num_cpus=0, max_retries=0)(_kill)
    tasks = []
    for file in attempt.worker_processes():
        place = json.loads(file.read_bytes())
        there = NodeAffinitySchedulingStrategy(place.pop("node"), soft=False)
        tasks.append(kill.options(scheduling_strategy=there).remote(place))
    ray.wait(tasks, num_returns=len(tasks), timeout=_KILL_S)


def _kill(place: dict[str, object]) -> None:
    process = Driver.model_validate(place)
    if process.is_alive:
        os.kill(process.pid, signal.SIGKILL)
