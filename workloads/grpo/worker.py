"""What each train worker of a GRPO stage does: set up, hand over to the learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.spec.grpo import GrpoSpec
from jobs.spec.tuner import FullSpec
from workloads.train.ending import end_when_asked
from workloads.train.setup import (
    Ready,
    Timer,
    TrainTask,
    log_to,
    save_checkpoint,
    set_up,
    tell,
)

LEDGER, REFERENCE = "ledger.json", "reference.safetensors"


@dataclass(frozen=True)
class LearnerTask(TrainTask):
    """All that a worker is told."""

    coordinator: Any
    """The coordinator actor's handle."""
    canary: tuple[int, ...]
    """The tokens on which engine and trainer are compared."""
    backend: str
    """What weights travel by."""


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs; `config["task"]` is a `LearnerTask`.

    Returns whether training came to its end, and the seconds that the parts of set-up took.
    """
    task: LearnerTask = config["task"]
    spec = task.spec
    assert isinstance(spec, GrpoSpec)
    timer = Timer()
    log_to(task)
    if "shards" not in config:
        end_when_asked(task)
    ready = set_up(task, timer)
    # They import torch and vLLM, which takes seconds; `set_up` has told so by now.
    from ray.train import get_context

    from workloads.grpo.forward import Costs, text_logps
    from workloads.grpo.learner import Learner
    from workloads.grpo.weight_sync import WeightSync

    engine, rank = ready.engine, get_context().get_world_rank()

    def score(tokens: Any) -> list[float]:
        engine.eval()
        return text_logps(engine, tokens, engine.device)

    reference = _reference(task, spec, ready)

    def save(step: int, ledger: str) -> None:
        save_checkpoint(task, ready, step, {LEDGER: ledger}, _reference_weights(spec, reference))

    learner = Learner(
        task=task,
        spec=spec,
        ready=ready,
        coordinator=task.coordinator,
        rank=rank,
        workers=get_context().get_world_size(),
        sync=WeightSync(
            carrier=_carrier(task, spec, ready, rank),
            rollout=spec.rollout,
            coordinator=task.coordinator,
            rank=rank,
            canary=task.canary,
            score=score,
            stops=task.layout.stop_request.exists,
        ),
        reference=reference,
        # A row's dropout is drawn for the row alone.
        costs=None if _drops_out(spec) else Costs.of(engine.module),
        save=save,
    )
    timer.mark("reference")
    tell(task, "waiting for the engines")
    finished = learner.train()
    if ready.monitor:
        ready.monitor.close()
    return {"finished": finished, "timings": timer.seconds, "first_step_at": None}


def _drops_out(spec: GrpoSpec) -> bool:
    return not isinstance(spec.tuner, FullSpec) and spec.tuner.dropout > 0


def _carrier(task: LearnerTask, spec: GrpoSpec, ready: Ready, rank: int) -> Any:
    from workloads.grpo.carriers import AdapterFiles, FullWeights
    from workloads.train.engine import DTYPES

    if spec.sends_adapter:
        return AdapterFiles(ready.engine.module, spec.rollout, rank, task.attempt.adapters)
    dtype = DTYPES[spec.rollout.torch_dtype or spec.training.torch_dtype]
    return FullWeights(ready.engine.module, dtype, spec.rollout, task.backend, rank)


def _reference(task: TrainTask, spec: GrpoSpec, ready: Ready) -> Any:
    """The reference model; None where nothing is compared with it."""
    if not spec.algorithm.beta:
        return None
    from workloads.grpo.reference import Reference

    follows = spec.algorithm.sync_ref_model
    start = _reference_start(task, follows) if task.resume else None
    return Reference(ready.engine, follows=follows, start=start)


def _reference_start(task: TrainTask, follows: bool) -> Mapping[str, Any] | None:
    """The reference's weights where the policy has left them behind."""
    from safetensors.torch import load_file

    assert task.resume
    if follows:
        return load_file(task.resume / REFERENCE)
    if not isinstance(task.spec.tuner, FullSpec):
        return None
    from workloads.models.load import load_model
    from workloads.train.engine import DTYPES

    model = load_model(task.model, DTYPES[task.spec.training.torch_dtype])
    return dict(model.named_parameters())


def _reference_weights(spec: GrpoSpec, reference: Any) -> dict[str, dict[str, Any]]:
    """What a checkpoint must have of a reference that follows the policy, by file. Collective."""
    if reference is None or not spec.algorithm.sync_ref_model:
        return {}
    return {REFERENCE: reference.weights()}


def ledger_of(checkpoint: Path | None) -> str | None:
    """The ledger that was saved with a checkpoint."""
    return (checkpoint / LEDGER).read_text() if checkpoint else None
