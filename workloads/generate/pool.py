"""The pool of engines over Ray Data, seen from the driver.

Ray Data hands chunks to engines as they get free, replaces an engine whose process has died, and
asks its chunks again. Answers stay on disk; what passes through the driver are counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import ClusterError, RaysmithError
from jobs.spec.generation import PoolSpec
from storage.durable import write_atomic
from workloads.data.prompts import read_prepared
from workloads.engine import environment
from workloads.failures import root
from workloads.generate.answers import ROWS_PER_CHUNK, Chunk, chunks
from workloads.generate.worker import Generator, Task

if TYPE_CHECKING:
    from ray.data import Dataset

_TALLY = "tally.json"


@dataclass(frozen=True)
class Tally:
    """How far a pool has come, in all attempts together."""

    rows: int
    """Rows that are done."""
    of: int
    """All rows."""
    tokens: int = 0
    """Tokens that were written."""
    preparation_s: float = 0.0
    """Seconds until the first engine was ready."""
    seconds: float = 0.0
    """Seconds since then."""

    @property
    def rows_per_second(self) -> float | None:
        """None before any row is done."""
        return self.rows / self.seconds if self.seconds else None

    @property
    def remaining_s(self) -> float | None:
        """Seconds that the other rows will take, at this rate."""
        rate = self.rows_per_second
        return (self.of - self.rows) / rate if rate else None


def missing(answers: Path, rows: int) -> list[Chunk]:
    """The chunks that are not done yet."""
    return [chunk for chunk in chunks(rows) if not chunk.file(answers).is_file()]


def generate(task: Task, pool: PoolSpec, tell: Callable[[Tally], None]) -> Tally:
    """Has all rows answered that are not yet. Needs a connected Ray.

    `task.answers` holds them afterwards, see `read_answers`. A row that the engine refuses is among
    them with its reason. `tell` is called with each chunk that is done.

    Raises:
        ClusterError: if engines died too often.
        RaysmithError: if the engine can't be made, or can't work.
    """
    rows = read_prepared(task.prompts).rows
    for folder in (task.answers, task.logs):
        folder.mkdir(parents=True, exist_ok=True)
    todo = missing(task.answers, rows)
    before = _read_tally(task.answers, rows - sum(chunk.rows for chunk in todo), rows)
    tell(before)
    if not todo:
        return before
    from ray.exceptions import RayError

    try:
        return _run(task, pool, todo, before, tell)
    except RayError as error:
        raise _failure(error, task) from error


def _run(
    task: Task, pool: PoolSpec, todo: list[Chunk], before: Tally, tell: Callable[[Tally], None]
) -> Tally:
    tally, start, preparation_s = before, time.monotonic(), 0.0
    for done in _dataset(task, pool, todo).iter_rows():
        elapsed_s = time.monotonic() - start
        preparation_s = preparation_s or elapsed_s - done["seconds"]
        tally = Tally(
            tally.rows + int(done["rows"]),
            tally.of,
            tally.tokens + int(done["tokens"]),
            before.preparation_s + preparation_s,
            before.seconds + elapsed_s - preparation_s,
        )
        write_atomic(task.answers / _TALLY, json.dumps(asdict(tally)).encode())
        tell(tally)
    return tally


def _read_tally(answers: Path, rows: int, of: int) -> Tally:
    """What earlier attempts wrote down, with the rows that are there now."""
    file = answers / _TALLY
    written = Tally(**json.loads(file.read_bytes())) if file.is_file() else Tally(0, of)
    return replace(written, rows=rows)


def _dataset(task: Task, pool: PoolSpec, todo: list[Chunk]) -> Dataset:
    import ray.data

    # Enough chunks at once that the engine's places are full while the longest answers end.
    at_once = -(-task.settings.max_num_seqs // ROWS_PER_CHUNK) + 1
    # Made here, and by no task, which would wait where engines take all of a cluster's cores.
    items = [{"id": index} for index in range(len(todo))]
    numbers = ray.data.from_items(items, override_num_blocks=len(todo))
    return numbers.map_batches(
        Generator,
        batch_size=1,
        fn_constructor_args=(task, todo),
        compute=ray.data.ActorPoolStrategy(
            size=min(pool.actors, len(todo)),
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=task.settings.threads,
        num_gpus=pool.gpus,
        runtime_env={"env_vars": environment(task.settings)},
    )


def _failure(error: Exception, task: Task) -> RaysmithError:
    from ray.exceptions import RayActorError

    remedy = f"see the engines' logs in {task.logs}"
    started = len(list(task.logs.iterdir()))
    if started > task.most_starts:
        reason = f"engines' processes died {started - 1} times"
        return ClusterError(reason, f"{remedy}; raise max_actor_restarts if machines are at fault")
    cause = root(error)
    if isinstance(cause, RayActorError):
        return ClusterError(f"an engine's process died: {cause}", remedy)
    return RaysmithError(f"an engine failed: {type(cause).__name__}: {cause}", remedy)
