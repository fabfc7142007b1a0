"""What each Ray Train worker does: set up, hand over to the loop, leave the result behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.errors import RaysmithError
from jobs.spec.sft import SftSpec
from workloads.train.ending import end_when_asked
from workloads.train.setup import (
    Timer,
    TrainTask,
    log_to,
    save_checkpoint,
    set_up,
    tell,
)

if TYPE_CHECKING:
    from workloads.data.stream import Rows
    from workloads.train.batches import Row


@dataclass(frozen=True)
class WorkerTask(TrainTask):
    """All that a worker is told."""

    has_validation: bool


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs; `config["task"]` is a `WorkerTask`.

    `config["shards"]` has this worker's rows by the dataset's name; without it, Ray Train has them.
    Returns whether training came to its end, and the seconds that the parts of set-up took.
    """
    task: WorkerTask = config["task"]
    assert isinstance(task.spec, SftSpec)
    timer = Timer()
    log_to(task)
    if "shards" not in config:  # else this process has other trainings to do
        end_when_asked(task)
    shard = config["shards"].__getitem__ if "shards" in config else _shard_of_train
    rows = _begin(_train_rows(task, shard("train")))
    ready = set_up(task, timer)
    # Imports torch, which `set_up` does after it has told so.
    from workloads.train.loop import Trainer
    from workloads.train.objectives import load_objective

    trainer = Trainer(
        engine=ready.engine,
        objective=load_objective(task.spec.kind),
        training=task.spec.training,
        checkpoint=task.spec.checkpoint,
        row_keys=ready.row_keys,
        pad_id=ready.tokenizer.pad_token_id or 0,
        max_steps=task.max_steps,
        monitor=ready.monitor,
        stop_request=task.layout.stop_request,
        save=lambda step: save_checkpoint(task, ready, step),
        validation=partial(_validation_rows, shard) if task.has_validation else None,
    )
    tell(task, "waiting for the first rows")
    finished = trainer.train(_first_marked(timer, rows), task.first_step)
    if ready.monitor:
        ready.monitor.close()
    ready.engine.destroy()
    return {"finished": finished, "timings": timer.seconds, "first_step_at": timer.first_step_at}


def _shard_of_train(name: str) -> Rows:
    from ray.train import get_dataset_shard

    return get_dataset_shard(name)


def _train_rows(task: WorkerTask, shard: Rows) -> Iterator[list[Row]]:
    """This worker's rows, step by step, checked to be those of the step."""
    from ray.train import get_context

    from workloads.train.batches import rows_of

    size = task.global_batch // get_context().get_world_size()
    tables = shard.iter_batches(batch_size=size, batch_format="pyarrow", prefetch_batches=2)
    for step, table in enumerate(tables, start=task.first_step):
        rows = rows_of(table)
        start = step * task.global_batch
        stray = [r.position for r in rows if not start <= r.position < start + task.global_batch]
        if stray or len(rows) != size:
            raise RaysmithError(
                f"step {step + 1} got {len(rows)} rows, {len(stray)} of them of other steps",
                "this is a fault of raysmith or Ray Data: please report it with the driver's log",
            )
        yield rows


def _begin(rows: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """The same rows; the first of them are fetched while the caller does other things."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="first-rows")
    first = pool.submit(next, rows)
    pool.shutdown(wait=False)

    def generate() -> Iterator[list[Row]]:
        yield first.result()
        yield from rows

    return generate()


def _validation_rows(shard: Callable[[str], Rows]) -> Iterator[Sequence[Row]]:
    from workloads.train.batches import rows_of

    batches = shard("validation").iter_batches(batch_size=None, batch_format="pyarrow")
    for table in batches:
        yield rows_of(table)


def _first_marked(timer: Timer, rows: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """The same rows; marks the wait for the first of them, and the first step."""
    first = next(rows)
    timer.mark("first_rows")
    yield first
    timer.mark("first_step")
    timer.first_step_at = time.time()
    yield from rows
