"""A GRPO stage, seen from the driver: prompts, coordinator, workers, artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from jobs.observed import write_phase
from jobs.spec.fields import size_bytes
from jobs.spec.grpo import GrpoSpec
from jobs.spec.tuner import FullSpec
from workloads.context import StageContext, StageResult
from workloads.data.prompts import PreparedPrompts, prepare_prompts
from workloads.engine import EngineSettings, engine_rank
from workloads.grpo.coordinator import Coordinator, RolloutTask
from workloads.grpo.worker import LearnerTask, ledger_of, train_worker
from workloads.models.taken import reward_models
from workloads.train.stage import (
    StartModel,
    fit,
    newest_checkpoint,
    publish,
    start_model,
    with_template_found,
)

_COLOCATED_ENGINE = 0.49
"""Share of a GPU that Ray books for an engine beside a train worker: two don't fit with one."""


def run(context: StageContext) -> StageResult:
    """Trains until the end or a request to stop. Goes on from the newest committed checkpoint.

    Raises:
        SpecError: if there is no prompt to complete.
        RaysmithError: if a worker or too many engines failed.
    """
    spec = context.stage.spec
    assert isinstance(spec, GrpoSpec)
    timings: dict[str, float] = {}
    clock = time.monotonic()
    spec = with_template_found(spec, context.base_folders)
    model = start_model(context, spec)
    tell = partial(write_phase, context.attempt.progress_json)
    tell("reading and tokenizing the prompts")
    prepared = prepare_prompts(
        spec.dataset,
        context.base_folders,
        model.folder,
        context.seed,
        context.layout.data,
        context.owner,
        multi_turn=spec.environment is not None,
    )
    context.note(prepared.summary())
    timings["data"], clock = time.monotonic() - clock, time.monotonic()
    context.attempt.args_json.write_text(spec.model_dump_json(indent=2))
    steps, per_epoch = _steps(spec, prepared)
    resume = newest_checkpoint(context)
    first_step = int(str(resume.manifest.meta["step"])) if resume else 0
    finished = first_step >= steps
    if not finished:
        task = _rollout_task(context, spec, model, steps, first_step, resume and resume.folder)
        tell("starting the engines")
        with _coordinator(context, task) as (coordinator, canary):
            learner = LearnerTask(
                spec=spec,
                seed=context.seed,
                model=model.folder,
                threads=_threads(context, spec),
                max_steps=steps,
                steps_per_epoch=per_epoch,
                global_batch=spec.training.global_batch_size or 0,
                resume=resume.folder if resume else None,
                first_step=first_step,
                owner=context.owner,
                layout=context.layout,
                attempt=context.attempt,
                coordinator=coordinator,
                canary=tuple(canary),
                backend=_backend(spec),
            )
            share = 1 - _COLOCATED_ENGINE if spec.rollout.colocate else None
            result = fit(context, train_worker, learner, gpu_share=share)
            _tell_report(context, coordinator)
        finished, timings = result["finished"], timings | result["timings"]
    timings["training_workers"] = time.monotonic() - clock
    _draw(context)
    if finished:
        publish(context, steps, model)
    return StageResult(finished, timings)


def _steps(spec: GrpoSpec, prepared: PreparedPrompts) -> tuple[int, int]:
    """Optimiser steps in all, and in an epoch."""
    per_batch = spec.algorithm.steps_per_batch
    per_epoch = -(-prepared.rows // spec.prompts_per_generation) * per_batch
    epochs = spec.training.num_train_epochs
    return spec.training.max_steps or max(round(epochs * per_epoch), 1), per_epoch


def _threads(context: StageContext, spec: GrpoSpec) -> int:
    """Cores of a train worker. Where engines work meanwhile, they have a share of their own."""
    return spec.resources.cpus_per_worker or context.cluster.cpus_per_worker(spec.processes_at_once)


def _engine_threads(context: StageContext, spec: GrpoSpec) -> int:
    alone = not spec.rollout.max_staleness
    processes = spec.rollout.actors if alone else spec.processes_at_once
    return spec.rollout.cpus_per_actor or context.cluster.cpus_per_worker(processes)


def _rollout_task(
    context: StageContext, spec: GrpoSpec, model: StartModel, steps: int, first_step: int,
    resume: Path | None,
) -> RolloutTask:  # fmt: skip
    per_batch = spec.algorithm.steps_per_batch
    threads = _engine_threads(context, spec)
    gpus = spec.rollout.gpus_per_actor or 0
    return RolloutTask(
        spec=spec,
        seed=context.seed,
        model=model.folder,
        prompts=str(context.layout.data),
        paths=context.base_folders,
        reward_models=reward_models(context, spec.rewards, spec.hub_token),
        attempt=context.attempt,
        first_batch=first_step // per_batch,
        batches=-(-steps // per_batch),
        ledger=ledger_of(resume),
        settings=engine_settings(context.seed, spec, model.folder, threads),
        # While weights are trained strictly on-policy engines are idle, and so need no cores.
        cpus_per_actor=threads if spec.rollout.max_staleness else 0,
        gpus_per_actor=_COLOCATED_ENGINE if spec.rollout.colocate and gpus else gpus,
    )


def engine_settings(seed: int, spec: GrpoSpec, model: str, threads: int) -> EngineSettings:
    """How the stage's engines are made."""
    rollout = spec.rollout
    gpus = rollout.gpus_per_actor or 0
    assert rollout.max_model_len
    return EngineSettings(
        model=model,
        dtype=rollout.torch_dtype or spec.training.torch_dtype,
        transfer_backend=_backend(spec),
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        seed=seed,
        threads=threads,
        on_gpu=gpus > 0,
        in_process=rollout.engine == "inprocess",
        tensor_parallel_size=rollout.tensor_parallel_size,
        kv_cache_bytes=size_bytes(rollout.kv_cache),
        gpu_memory_utilization=rollout.gpu_memory_utilization or 0.9,
        enforce_eager=rollout.enforce_eager,
        sleeps=rollout.colocate,
        max_lora_rank=_engine_rank(spec) if spec.sends_adapter else None,
        max_loras=rollout.max_staleness + 2,
    )


def _backend(spec: GrpoSpec) -> str:
    """What weights travel by."""
    if not spec.rollout.gpus_per_actor:
        return "gloo"
    return "ipc" if spec.rollout.colocate else "nccl"


def _engine_rank(spec: GrpoSpec) -> int:
    assert not isinstance(spec.tuner, FullSpec)
    return engine_rank(spec.tuner.rank)


@contextmanager
def _coordinator(context: StageContext, task: RolloutTask) -> Iterator[tuple[Any, list[int]]]:
    """The coordinator, which has begun to start the engines, and the canary's tokens."""
    import ray

    # Its engines would otherwise go where a trial of a sweep is, which has no cores.
    coordinator = ray.remote(Coordinator).options(
        num_cpus=0, max_concurrency=1000, scheduling_strategy="DEFAULT"
    )
    actor = coordinator.remote(task)
    try:
        yield actor, ray.get(actor.start.remote())
    finally:
        try:
            ray.get(actor.stop.remote(), timeout=20)
        except (ray.exceptions.RayError, TimeoutError):
            context.event("coordinator_lost")
        ray.kill(actor)


def _tell_report(context: StageContext, coordinator: Any) -> None:
    """Tells the person who watches what became of prompts, engines and rewards."""
    import ray

    report: dict[str, Any] = ray.get(coordinator.report.remote(), timeout=20)
    context.event("rollout_report", **report)
    if report["restarts"]:
        seconds = ", ".join(f"{value:.1f} s" for value in report["recoveries_s"])
        context.note(
            f"{report['restarts']} rollout actors were replaced (back after {seconds or 'the end'})"
            f"; {report['redispatched']} completions were asked for again"
        )
    for source, failure in report["failures"].items():
        context.note(
            f"{source} failed for {failure['completions']:,} completions, such as "
            f"{', '.join(failure['first'][:5])}: {failure['reason']}; all are in "
            f"{context.attempt.failures_jsonl}"
        )


def _draw(context: StageContext) -> None:
    if not context.attempt.logging_jsonl.exists():
        return
    from workloads.grpo.timeline import draw_timeline
    from workloads.train.plots import draw

    draw(context.attempt.logging_jsonl, context.attempt.images)
    draw_timeline(context.attempt.timeline_jsonl, context.attempt.images)
