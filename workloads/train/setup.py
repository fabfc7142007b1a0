"""What every train worker does, whatever it trains with: set-up, log, and checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.observed import write_phase
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.spec.tuner import FullSpec
from storage.committed import fetch
from storage.layout import AttemptLayout, StageLayout
from storage.manifest import Owner
from storage.retention import prune
from workloads.process_log import print_to
from workloads.train.best import best_step

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

    from workloads.train.dropout import RowKeys
    from workloads.train.monitor import Monitor


@dataclass(frozen=True)
class TrainTask:
    """What every train worker is told."""

    spec: SftSpec | GrpoSpec
    seed: int
    model: str
    """The folder of the model to start from."""
    threads: int
    """Cores that this worker may use."""
    max_steps: int
    steps_per_epoch: int
    global_batch: int
    resume: Path | None
    """The committed checkpoint to go on from."""
    first_step: int
    owner: Owner
    layout: StageLayout
    attempt: AttemptLayout


@dataclass
class Timer:
    """Seconds from one mark to the next."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)
    first_step_at: float | None = None
    """When the first step ended, in seconds since the epoch."""

    def mark(self, name: str) -> None:
        """Ends the stretch of this name."""
        now = time.monotonic()
        self.seconds[name], self.last = round(now - self.last, 3), now


@dataclass(frozen=True)
class Ready:
    """What a worker trains with."""

    tokenizer: PreTrainedTokenizerFast
    engine: DeepSpeedEngine
    row_keys: RowKeys
    monitor: Monitor | None
    """None but on the first worker."""


def set_up(task: TrainTask, timer: Timer) -> Ready:
    """Loads the model and starts DeepSpeed where the checkpoint left off. Collective."""
    tell(task, "importing libraries")
    import torch

    from workloads.data.prepare import load_tokenizer

    torch.set_num_threads(task.threads)
    timer.mark("import")
    tell(task, "loading the model")
    for folder in filter(None, (Path(task.model), task.resume)):
        fetch(folder)
    tokenizer = load_tokenizer(task.model, task.spec.dataset.chat_template)
    model, row_keys = _load(task)
    timer.mark("load_model")
    tell(task, "starting DeepSpeed")
    engine, state = _start_engine(task, model)
    timer.mark("deepspeed")
    return Ready(tokenizer, engine, row_keys, _start_monitor(task, state))


def log_to(task: TrainTask) -> None:
    """Sends what this process prints to the worker's log."""
    from ray.train import get_context

    print_to(task.attempt.worker_log(get_context().get_world_rank()))


def tell(task: TrainTask, phase: str) -> None:
    """Tells the controller what is being done; only the first worker does."""
    from ray.train import get_context

    if get_context().get_world_rank() == 0:
        write_phase(task.attempt.progress_json, phase)


def _load(task: TrainTask) -> tuple[nn.Module, RowKeys]:
    """The model to train, from the checkpoint where there is one, and its dropout's row keys."""
    from workloads.models.load import attach_tuner, load_model
    from workloads.train.checkpoint import load_adapter
    from workloads.train.dropout import use_row_dropout
    from workloads.train.engine import DTYPES, hold_partitioned

    training, tuner = task.spec.training, task.spec.tuner
    full = isinstance(tuner, FullSpec)
    start = str(task.resume) if full and task.resume else task.model
    with hold_partitioned(training):
        model = load_model(start, DTYPES[training.torch_dtype])
        # DoRA reads the weights that it adapts; in here PEFT gathers them from their parts.
        model = attach_tuner(model, tuner, task.seed)
    model.config.use_cache = False
    if task.resume and not full:
        load_adapter(model, task.resume)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    share = 0.0 if isinstance(tuner, FullSpec) else tuner.dropout
    return model, use_row_dropout(model, share, task.seed)


def _start_engine(task: TrainTask, model: nn.Module) -> tuple[DeepSpeedEngine, dict[str, Any]]:
    """The DeepSpeed engine as the checkpoint left it, and the state saved with it. Collective."""
    from ray.train import get_context

    from workloads.train.checkpoint import restore
    from workloads.train.engine import make_engine
    from workloads.train.state import allocate

    rows_of_a_pass = task.spec.training.per_device_train_batch_size
    passes = task.global_batch // (rows_of_a_pass * get_context().get_world_size())
    engine = make_engine(model, task.spec.training, passes)
    # DeepSpeed would make them in its first step, but lose track of all but one parameter group's.
    allocate(engine, task.first_step)
    return engine, restore(engine, task.resume) if task.resume else {}


def _start_monitor(task: TrainTask, state: Mapping[str, Any]) -> Monitor | None:
    """The monitor of the first worker; None on the others."""
    from ray.train import get_context

    if get_context().get_world_rank() != 0:
        return None
    from workloads.train.monitor import Monitor

    return Monitor(
        layout=task.attempt,
        max_steps=task.max_steps,
        steps_per_epoch=task.steps_per_epoch,
        first_step=task.first_step,
        elapsed_before_s=state.get("elapsed_time", 0.0),
        history=state.get("log_history", []),
    )


def save_checkpoint(
    task: TrainTask,
    ready: Ready,
    step: int,
    texts: Mapping[str, str] | None = None,
    weights_beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Writes and commits a checkpoint, with further files by name. Collective."""
    from workloads.train.checkpoint import save

    state: dict[str, Any] = {"global_step": step, "max_steps": task.max_steps, "seed": task.seed}
    monitor = ready.monitor
    if monitor:
        monitor.progress(step, phase="saving a checkpoint")
        state |= {"elapsed_time": monitor.elapsed_s, "log_history": monitor.history}
    folder = task.layout.checkpoint(step)
    save(
        ready.engine,
        ready.tokenizer,
        folder,
        task.owner,
        state,
        {"args.json": _args(task), **(texts or {})},
        weights_beside or {},
    )
    if monitor:
        kept = task.spec.checkpoint
        best = best_step(monitor.history, kept, task.layout)
        protect = {task.layout.checkpoint(best)} if best else set()
        prune(task.layout, kept.save_total_limit, protect)
        monitor.progress(step)


def _args(task: TrainTask) -> str:
    values = {"seed": task.seed, "max_steps": task.max_steps, **task.spec.model_dump(mode="json")}
    return json.dumps(values, indent=2, ensure_ascii=False)
