"""What every training stage does in the driver: find its inputs, place workers, keep the artifact.

Ray Train places and watches the workers. It does not restart them: the controller does, with a new
attempt, once it knows what kind of failure it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.errors import RaysmithError
from jobs.observed import write_phase
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.state import FailureClass
from storage.commit import adopt
from storage.committed import Newest, newest_committed, read_committed
from workloads.context import StageContext
from workloads.data.sources import found_template
from workloads.data.stream import Stream
from workloads.failures import LOST_CONNECTION, classify, root
from workloads.models.resolve import ModelSource
from workloads.models.taken import model_folder, taken_model
from workloads.train.crew import Order, WorkerFunction
from workloads.train.environment import worker_environment
from workloads.train.setup import TrainTask

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

_ONLY_IN_CHECKPOINTS = ("optimizer-", "rng-", "trainer_state", "reference.", "ledger.", "_")
"""Beginnings of file names that an artifact leaves out."""

TrainSpec = TypeVar("TrainSpec", SftSpec, GrpoSpec)


@dataclass(frozen=True)
class StartModel:
    """The model that a stage starts from."""

    source: ModelSource
    folder: str
    """Where it is on this machine."""


def start_model(context: StageContext, spec: SftSpec | GrpoSpec) -> StartModel:
    """Finds the stage's model and brings it here."""
    # Takes seconds, which the driver would otherwise spend waiting for the data.
    Thread(target=import_module, args=("ray.train.torch",), daemon=True).start()
    model = taken_model(context, "model", spec.model)
    write_phase(context.attempt.progress_json, "fetching the model")
    return StartModel(model, model_folder(model, spec.hub_token))


def with_template_found(spec: TrainSpec, base_folders: Sequence[str]) -> TrainSpec:
    """The spec with the path of its chat template, if it has one, made absolute."""
    return spec.model_copy(update={"dataset": found_template(spec.dataset, base_folders)})


def newest_checkpoint(context: StageContext) -> Newest | None:
    """The checkpoint to go on from, told to the person who watches."""
    newest = newest_committed(context.layout.checkpoints(), verify="digests")
    if newest:
        for reason in newest.skipped:
            context.note(f"checkpoint passed over: {reason}")
        context.note(f"going on from step {newest.manifest.meta['step']}")
        context.event("resumed", step=newest.manifest.meta["step"], skipped=newest.skipped)
    return newest


def fit(
    context: StageContext,
    worker: WorkerFunction,
    task: TrainTask,
    streams: Mapping[str, Stream] | None = None,
    gpu_share: float | None = None,
) -> dict[str, Any]:
    """Runs `worker` on the stage's workers. Returns what the first of them returned.

    `gpu_share` is the part of a GPU that a worker has, where that is not what the spec says.

    Raises:
        RaysmithError: if a worker failed; the cause is the worker's error.
    """
    from ray.train import WorkerGroupError

    share = task.spec.resources.gpus_per_worker if gpu_share is None else gpu_share
    make = partial(_trainer, context, task, share)
    scratch, streams = context.attempt.folder / "ray_train", streams or {}
    try:
        if context.shared:
            return context.shared.crew.train(make, Order(worker, task, streams))
        datasets = {name: stream.dataset() for name, stream in streams.items()}
        result = make(worker, {"task": task}, scratch, datasets).fit()
    except WorkerGroupError as error:
        rank, cause = first_failure(error.worker_failures)
        raise RaysmithError(f"training worker {rank} failed: {_described(cause)}") from cause
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    outcome: dict[str, Any] = result.return_value
    return outcome


def _trainer(
    context: StageContext, task: TrainTask, gpu_share: float, function: WorkerFunction,
    config: dict[str, Any], scratch: Path, datasets: Mapping[str, Any] | None = None,
) -> TorchTrainer:  # fmt: skip
    """A run of Ray Train that calls `function(config)` on each of the stage's workers."""
    from ray.data import ExecutionOptions
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from workloads.train.process_group import torch_config

    resources, gpu = task.spec.resources, task.spec.resources.gpus_per_worker > 0
    return TorchTrainer(
        partial(_timed, function),
        train_loop_config=config,
        torch_config=torch_config(gpu=gpu),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": task.threads, **({"GPU": gpu_share} if gpu else {})},
        ),
        run_config=RunConfig(
            name=f"{context.owner.run_id}-{context.stage.name}-{context.owner.attempt}",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": worker_environment(task.threads, gpu=gpu)},
        ),
        datasets=dict(datasets or {}),
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )


def first_failure(failures: Mapping[int, Exception]) -> tuple[int, BaseException]:
    """The failure that made the others fail.

    That is one that says of itself what it is, such as out of memory; else a process that died;
    else the worker's error that came first. What a worker says of a lost peer comes last.
    """

    def collateral(item: tuple[int, BaseException]) -> tuple[int, float, int]:
        rank, error = item
        lost_a_peer = any(text in str(error) for text in LOST_CONNECTION)
        order = _COLLATERAL if lost_a_peer else _ORDER.get(classify(error), 0)
        return order, getattr(error, _FAILED_AT, inf), rank

    return min(((rank, root(error)) for rank, error in failures.items()), key=collateral)


_ORDER = {FailureClass.INFRASTRUCTURE: 1, FailureClass.UNKNOWN: 2}
_COLLATERAL = 3
_FAILED_AT = "failed_at"
"""The attribute of a worker's error that says when it was raised, in seconds since the epoch."""


def _timed(function: WorkerFunction, config: dict[str, Any]) -> Any:
    """Calls a worker function; an error that it raises says when."""
    try:
        return function(config)
    except Exception as error:
        setattr(error, _FAILED_AT, time.time())
        raise


def _described(error: BaseException) -> str:
    from ray.exceptions import RayActorError

    if isinstance(error, RayActorError):
        return "its process died: it was killed, ran out of memory, or crashed"
    return f"{type(error).__name__}: {error}"


def publish(context: StageContext, step: int, model: StartModel) -> None:
    """Commits the model of the checkpoint of this step as the stage's artifact."""
    checkpoint = context.layout.checkpoint(step)
    manifest = read_committed(checkpoint)
    if manifest is None:
        raise RaysmithError(f"the checkpoint {checkpoint} is not whole", "run the job again")
    meta = context.meta(
        type=context.stage.produces,
        step=step,
        base=model.folder,
        base_name=model.source.name,
    )
    adopt(checkpoint, manifest, context.artifact, context.owner, meta, _ONLY_IN_CHECKPOINTS)
