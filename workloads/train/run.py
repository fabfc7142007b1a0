"""Supervised fine-tuning, seen from the driver: prepare the data, train, keep the artifact."""

from __future__ import annotations

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

from jobs.observed import write_phase
from jobs.spec.sft import SftSpec
from storage.durable import locked
from workloads.context import StageContext, StageResult
from workloads.data.prepare import Prepared, prepare
from workloads.data.stream import Stream, segments, steps_per_epoch
from workloads.train.best import best_step, saved_history
from workloads.train.stage import (
    StartModel,
    fit,
    newest_checkpoint,
    publish,
    start_model,
    with_template_found,
)
from workloads.train.worker import WorkerTask, train_worker


def run(context: StageContext) -> StageResult:
    """Trains until the end or a request to stop. Goes on from the newest committed checkpoint.

    Raises:
        SpecError: if no row can be trained on.
        RaysmithError: if a worker failed; the cause is the worker's error.
    """
    spec = context.stage.spec
    assert isinstance(spec, SftSpec)
    timings: dict[str, float] = {}
    clock = time.monotonic()
    spec = with_template_found(spec, context.base_folders)
    model = start_model(context, spec)
    tell = partial(write_phase, context.attempt.progress_json)
    tell("reading and tokenizing the data")
    data = _data_folder(context, spec, model)
    with locked(data.with_name(f"{data.name}.lock")):
        prepared = prepare(
            spec.dataset,
            context.base_folders,
            model.folder,
            context.seed,
            data,
            context.shared.owner if context.shared else context.owner,
        )
    context.note(prepared.summary())
    timings["data"], clock = time.monotonic() - clock, time.monotonic()
    task = _task(context, spec, model, prepared)
    tell("starting the workers")
    context.attempt.args_json.write_text(spec.model_dump_json(indent=2))
    result = _train(context, task, prepared, data)
    timings |= result["timings"]
    context.event("trained", finished=result["finished"], first_step_at=result["first_step_at"])
    timings["training_workers"] = time.monotonic() - clock
    if context.attempt.logging_jsonl.exists() and not context.shared:
        from workloads.train.plots import draw

        draw(context.attempt.logging_jsonl, context.attempt.images)
    if result["finished"]:
        publish(context, _step_to_keep(context, task), model)
    return StageResult(result["finished"], timings)


def _step_to_keep(context: StageContext, task: WorkerTask) -> int:
    """The step whose model the stage leaves: the last, or the best where that is asked for."""
    spec = task.spec.checkpoint
    history = saved_history(context.layout) if spec.load_best_model_at_end else []
    step = best_step(history, spec, context.layout)
    if step is None:
        return task.max_steps
    metric = spec.metric_for_best_model
    value = next(r[metric] for r in history if r["global_step"] == step and metric in r)
    context.note(f"the best checkpoint is that of step {step}: {metric} {value:.4f}")
    context.event("best", step=step, metric=metric, value=value)
    return step


def _data_folder(context: StageContext, spec: SftSpec, model: StartModel) -> Path:
    """Where the tokenized rows lie; trials that train on the same ones share them."""
    if not context.shared:
        return context.layout.data
    content = f"{model.folder}\0{spec.dataset.model_dump_json()}"
    return context.shared.data / hashlib.sha256(content.encode()).hexdigest()[:16]


def _task(
    context: StageContext, spec: SftSpec, model: StartModel, prepared: Prepared
) -> WorkerTask:
    training = spec.training
    global_batch = training.global_batch_size
    assert global_batch, "the plan derives it"
    per_epoch = steps_per_epoch(prepared.train_rows, global_batch)
    max_steps = training.max_steps or max(round(training.num_train_epochs * per_epoch), 1)
    newest = newest_checkpoint(context)
    first_step = int(str(newest.manifest.meta["step"])) if newest else 0
    cpus = spec.resources.cpus_per_worker
    return WorkerTask(
        spec=spec,
        seed=context.seed,
        model=model.folder,
        threads=cpus or context.cluster.cpus_per_worker(spec.resources.workers),
        max_steps=max_steps,
        steps_per_epoch=per_epoch,
        global_batch=global_batch,
        has_validation=bool(prepared.validation),
        resume=newest.folder if newest else None,
        first_step=first_step,
        owner=context.owner,
        layout=context.layout,
        attempt=context.attempt,
    )


def _train(
    context: StageContext, task: WorkerTask, prepared: Prepared, data: Path
) -> dict[str, Any]:
    if task.first_step >= task.max_steps:
        return {"finished": True, "timings": {}, "first_step_at": None}
    return fit(context, train_worker, task, _streams(context.seed, task, prepared, data))


def _streams(seed: int, task: WorkerTask, prepared: Prepared, folder: Path) -> dict[str, Stream]:
    spec = task.spec
    assert isinstance(spec, SftSpec)
    workers = spec.resources.workers
    order = seed if spec.dataset.shuffle else None
    train = segments(prepared.train, order, task.global_batch, task.first_step, task.max_steps)
    streams = {"train": Stream(tuple(train), folder, task.global_batch // workers)}
    if prepared.validation:
        size = spec.training.per_device_eval_batch_size or 1
        batch = size * workers
        steps = steps_per_epoch(prepared.validation_rows, batch)
        rows = segments(prepared.validation, None, batch, 0, steps)
        streams["validation"] = Stream(tuple(rows), folder, size)
    return streams
