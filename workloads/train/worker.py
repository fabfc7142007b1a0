"""What each Ray Train worker does: set up, hand over to the loop, leave the result behind."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import RaysmithError
from jobs.observed import write_phase
from jobs.spec.sft import SftSpec
from jobs.spec.tuner import FullSpec
from storage.layout import AttemptLayout, StageLayout
from storage.manifest import Owner
from storage.retention import prune

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from workloads.train.batches import Row
    from workloads.train.dropout import RowKeys
    from workloads.train.monitor import Monitor


@dataclass(frozen=True)
class WorkerTask:
    """All that a worker is told."""

    spec: SftSpec
    seed: int
    model: str
    """The folder of the model to start from."""
    threads: int
    """Cores that this worker may use."""
    max_steps: int
    steps_per_epoch: int
    global_batch: int
    has_validation: bool
    resume: Path | None
    """The committed checkpoint to go on from."""
    first_step: int
    owner: Owner
    layout: StageLayout
    attempt: AttemptLayout


@dataclass
class _Timer:
    """Seconds from one mark to the next."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)
    first_step_at: float | None = None
    """When the first step ended, in seconds since the epoch."""

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self.last = round(now - self.last, 3), now


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs; `config["task"]` is a `WorkerTask`.

    Returns whether training came to its end, and the seconds that the parts of set-up took.
    """
    task: WorkerTask = config["task"]
    timer = _Timer()
    _log_to(task)
    rows = _begin(_train_rows(task))
    _tell(task, "importing libraries")
    import torch
    from ray.train import get_context

    from workloads.data.prepare import load_tokenizer
    from workloads.train.loop import Trainer
    from workloads.train.objectives import load_objective
    from workloads.train.state import allocate

    torch.set_num_threads(task.threads)
    timer.mark("import")
    _tell(task, "loading the model")
    tokenizer = load_tokenizer(task.model, task.spec.dataset.chat_template)
    model, row_keys = _load(task)
    timer.mark("load_model")
    _tell(task, "starting DeepSpeed")
    engine = _engine(task, model)
    # DeepSpeed would make them in its first step, but lose track of all but one parameter group's.
    allocate(engine, task.first_step)
    timer.mark("deepspeed")
    state: dict[str, Any] = {}
    if task.resume:
        from workloads.train.checkpoint import restore

        state = restore(engine, task.resume)
        timer.mark("restore")
    monitor = _monitor(task, state) if get_context().get_world_rank() == 0 else None
    trainer = Trainer(
        engine=engine,
        objective=load_objective(task.spec.kind),
        training=task.spec.training,
        checkpoint=task.spec.checkpoint,
        row_keys=row_keys,
        pad_id=tokenizer.pad_token_id or 0,
        max_steps=task.max_steps,
        monitor=monitor,
        stop_request=task.layout.stop_request,
        save=lambda step: _save(task, engine, tokenizer, monitor, step),
        validation=_validation_rows if task.has_validation else None,
    )
    _tell(task, "waiting for the first rows")
    finished = trainer.train(_first_marked(timer, rows), task.first_step)
    if monitor:
        monitor.close()
    return {"finished": finished, "timings": timer.seconds, "first_step_at": timer.first_step_at}


def _log_to(task: WorkerTask) -> None:
    """Sends what this process prints to the worker's log, from native code too."""
    from ray.train import get_context

    path = task.attempt.worker_log(get_context().get_world_rank())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _tell(task: WorkerTask, phase: str) -> None:
    from ray.train import get_context

    if get_context().get_world_rank() == 0:
        write_phase(task.attempt.progress_json, phase)


def _load(task: WorkerTask) -> tuple[nn.Module, RowKeys]:
    from workloads.models.load import attach_tuner, load_model
    from workloads.train.checkpoint import load_adapter
    from workloads.train.dropout import use_row_dropout
    from workloads.train.engine import DTYPES, hold_partitioned

    training, tuner = task.spec.training, task.spec.tuner
    full = isinstance(tuner, FullSpec)
    start = str(task.resume) if full and task.resume else task.model
    with hold_partitioned(training):
        model = load_model(start, DTYPES[training.torch_dtype])
    model.config.use_cache = False
    model = attach_tuner(model, tuner, task.seed)
    if task.resume and not full:
        load_adapter(model, task.resume)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    share = 0.0 if isinstance(tuner, FullSpec) else tuner.dropout
    return model, use_row_dropout(model, share, task.seed)


def _engine(task: WorkerTask, model: nn.Module) -> DeepSpeedEngine:
    from ray.train import get_context

    from workloads.train.engine import make_engine

    rows_of_a_pass = task.spec.training.per_device_train_batch_size
    passes = task.global_batch // (rows_of_a_pass * get_context().get_world_size())
    return make_engine(model, task.spec.training, passes)


def _monitor(task: WorkerTask, state: dict[str, Any]) -> Monitor:
    from workloads.train.monitor import Monitor

    return Monitor(
        layout=task.attempt,
        max_steps=task.max_steps,
        steps_per_epoch=task.steps_per_epoch,
        first_step=task.first_step,
        elapsed_before_s=state.get("elapsed_time", 0.0),
        history=state.get("log_history", []),
    )


def _train_rows(task: WorkerTask) -> Iterator[list[Row]]:
    """This worker's rows, step by step, checked to be those of the step."""
    from ray.train import get_context, get_dataset_shard

    from workloads.train.batches import rows_of

    size = task.global_batch // get_context().get_world_size()
    tables = get_dataset_shard("train").iter_batches(
        batch_size=size, batch_format="pyarrow", prefetch_batches=2
    )
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


def _validation_rows() -> Iterator[Sequence[Row]]:
    from ray.train import get_dataset_shard

    from workloads.train.batches import rows_of

    batches = get_dataset_shard("validation").iter_batches(batch_size=None, batch_format="pyarrow")
    for table in batches:
        yield rows_of(table)


def _first_marked(timer: _Timer, rows: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """The same rows; marks the wait for the first of them, and the first step."""
    first = next(rows)
    timer.mark("first_rows")
    yield first
    timer.mark("first_step")
    timer.first_step_at = time.time()
    yield from rows


def _save(
    task: WorkerTask,
    engine: DeepSpeedEngine,
    tokenizer: PreTrainedTokenizerFast,
    monitor: Monitor | None,
    step: int,
) -> None:
    from workloads.train.checkpoint import save

    state: dict[str, Any] = {"global_step": step, "max_steps": task.max_steps, "seed": task.seed}
    if monitor:
        monitor.progress(step, phase="saving a checkpoint")
        state |= {"elapsed_time": monitor.elapsed_s, "log_history": monitor.history}
    folder = task.layout.checkpoint(step)
    save(engine, tokenizer, folder, task.owner, state, extra={"args.json": _args(task)})
    if monitor:
        prune(task.layout, task.spec.checkpoint.save_total_limit)
        monitor.progress(step)


def _args(task: WorkerTask) -> str:
    values = {"seed": task.seed, "max_steps": task.max_steps, **task.spec.model_dump(mode="json")}
    return json.dumps(values, indent=2, ensure_ascii=False)
