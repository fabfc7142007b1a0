"""A training stage, seen from the driver: prepare the data, place the workers, keep the artifact.

Ray Train places and watches the workers. It does not restart them: the controller does, with a new
attempt, once it knows what kind of failure it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from jobs.errors import RaysmithError
from jobs.observed import write_phase
from jobs.spec.sft import SftSpec
from storage.commit import Newest, begin, commit, newest_committed, read_committed
from workloads.context import StageContext, StageResult
from workloads.data.prepare import Prepared, prepare
from workloads.data.stream import dataset, segments, steps_per_epoch
from workloads.failures import LOST_CONNECTION, root
from workloads.models.resolve import ModelSource, resolve_model
from workloads.train.environment import worker_environment
from workloads.train.worker import WorkerTask, train_worker

_ONLY_IN_CHECKPOINTS = ("optimizer-", "rng-", "trainer_state", "_")
"""Beginnings of file names that an artifact leaves out."""


def run(context: StageContext) -> StageResult:
    """Trains until the end or a request to stop. Goes on from the newest committed checkpoint.

    Raises:
        SpecError: if no row can be trained on.
        RaysmithError: if a worker failed; the cause is the worker's error.
    """
    import ray

    spec = context.stage.spec
    assert isinstance(spec, SftSpec)
    timings: dict[str, float] = {}
    clock = time.monotonic()
    spec = _with_template_found(spec, context.base_folders)
    source = context.inputs.get("model")
    model = (
        ModelSource("folder", str(source))
        if source
        else resolve_model(spec.model, context.base_folders)
    )
    # Takes seconds, which the driver would otherwise spend waiting for the data.
    Thread(target=import_module, args=("ray.train.torch",), daemon=True).start()
    tell = partial(write_phase, context.attempt.progress_json)
    tell("fetching the model")
    folder = ray.get(ray.remote(_localize).remote(model, spec.hub_token))
    tell("reading and tokenizing the data")
    prepared = prepare(
        spec.dataset, context.base_folders, folder, context.seed, context.layout.data, context.owner
    )
    context.note(prepared.summary())
    timings["data"], clock = time.monotonic() - clock, time.monotonic()
    task = _task(context, spec, folder, prepared)
    tell("starting the workers")
    context.attempt.args_json.write_text(spec.model_dump_json(indent=2))
    result = _fit(context, task, prepared)
    timings |= result["timings"]
    context.event("trained", finished=result["finished"], first_step_at=result["first_step_at"])
    timings["training_workers"] = time.monotonic() - clock
    if context.attempt.logging_jsonl.exists():
        from workloads.train.plots import draw

        draw(context.attempt.logging_jsonl, context.attempt.images)
    if result["finished"]:
        _publish(context, task.max_steps, model, folder)
    return StageResult(result["finished"], timings)


def _with_template_found(spec: SftSpec, base_folders: Sequence[str]) -> SftSpec:
    """The spec with the path of its chat template, if it has one, made absolute."""
    if not spec.dataset.chat_template:
        return spec
    paths = [Path(base, spec.dataset.chat_template) for base in base_folders]
    found = next((path for path in paths if path.is_file()), paths[0])
    dataset = spec.dataset.model_copy(update={"chat_template": str(found.resolve())})
    return spec.model_copy(update={"dataset": dataset})


def _localize(model: ModelSource, hub_token: str | None) -> str:
    """Runs in a task, where the model's libraries are imported."""
    from workloads.models.local import localize

    return localize(model, hub_token)


def _task(context: StageContext, spec: SftSpec, model: str, prepared: Prepared) -> WorkerTask:
    training = spec.training
    global_batch = training.global_batch_size
    assert global_batch, "the plan derives it"
    per_epoch = steps_per_epoch(prepared.train_rows, global_batch)
    max_steps = training.max_steps or max(round(training.num_train_epochs * per_epoch), 1)
    newest = _newest_checkpoint(context)
    first_step = int(str(newest.manifest.meta["step"])) if newest else 0
    cpus = spec.resources.cpus_per_worker
    return WorkerTask(
        spec=spec,
        seed=context.seed,
        model=model,
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


def _newest_checkpoint(context: StageContext) -> Newest | None:
    newest = newest_committed(context.layout.checkpoints(), verify="digests")
    if newest:
        for reason in newest.skipped:
            context.note(f"checkpoint passed over: {reason}")
        context.note(f"going on from step {newest.manifest.meta['step']}")
        context.event("resumed", step=newest.manifest.meta["step"], skipped=newest.skipped)
    return newest


def _fit(context: StageContext, task: WorkerTask, prepared: Prepared) -> dict[str, Any]:
    if task.first_step >= task.max_steps:
        return {"finished": True, "timings": {}, "first_step_at": None}
    from ray.data import ExecutionOptions
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    resources, gpu = task.spec.resources, task.spec.resources.gpus_per_worker > 0
    scratch = context.attempt.folder / "ray_train"
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": task.threads, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name=f"{context.owner.run_id}-{context.stage.name}-{context.owner.attempt}",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": worker_environment(task.threads, gpu=gpu)},
        ),
        datasets=_datasets(context, task, prepared),
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        rank, cause = first_failure(error.worker_failures)
        raise RaysmithError(f"training worker {rank} failed: {_described(cause)}") from cause
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    outcome: dict[str, Any] = result.return_value
    return outcome


def _datasets(context: StageContext, task: WorkerTask, prepared: Prepared) -> dict[str, Any]:
    spec, folder = task.spec, context.layout.data
    workers = spec.resources.workers
    seed = context.seed if spec.dataset.shuffle else None
    stream = segments(prepared.train, seed, task.global_batch, task.first_step, task.max_steps)
    datasets = {"train": dataset(list(stream), folder, task.global_batch // workers)}
    if prepared.validation:
        size = spec.training.per_device_eval_batch_size or 1
        batch = size * workers
        steps = steps_per_epoch(prepared.validation_rows, batch)
        rows = segments(prepared.validation, None, batch, 0, steps)
        datasets["validation"] = dataset(list(rows), folder, size)
    return datasets


def first_failure(failures: Mapping[int, Exception]) -> tuple[int, BaseException]:
    """The failure that made the others fail: a process that died, else an error of its own."""
    from ray.exceptions import RayActorError

    def collateral(item: tuple[int, BaseException]) -> tuple[bool, bool, int]:
        rank, error = item
        lost_a_peer = any(text in str(error) for text in LOST_CONNECTION)
        return (lost_a_peer, not isinstance(error, RayActorError), rank)

    return min(((rank, root(error)) for rank, error in failures.items()), key=collateral)


def _described(error: BaseException) -> str:
    from ray.exceptions import RayActorError

    if isinstance(error, RayActorError):
        return "its process died: it was killed, ran out of memory, or crashed"
    return f"{type(error).__name__}: {error}"


def _publish(context: StageContext, step: int, model: ModelSource, base: str) -> None:
    """Commits the last checkpoint's model as the stage's artifact."""
    checkpoint = context.layout.checkpoint(step)
    manifest = read_committed(checkpoint)
    if manifest is None:
        raise RaysmithError(f"the last checkpoint, {checkpoint}, is not whole", "run the job again")
    begin(context.artifact, context.owner)
    for file in manifest.files:
        if not file.name.startswith(_ONLY_IN_CHECKPOINTS):
            _link(checkpoint / file.name, context.artifact / file.name)
    meta = {"type": context.stage.produces, "step": step, "base": base, "base_name": model.name}
    commit(context.artifact, context.owner, meta)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
