"""The values that follow from others when a spec leaves them out, each by one small rule."""

from __future__ import annotations

from jobs.spec.resources import ResourcesSpec
from jobs.spec.sft import SftSpec
from jobs.spec.training import TrainingSpec
from jobs.spec.tuner import FullSpec, LoraSpec

LEAST_GLOBAL_BATCH = 16
"""Rows that a global batch has at least, where the spec says nothing of its size."""

RULES = {
    "learning_rate": "1e-4 for adapters, 1e-5 for full fine-tuning",
    "warmup_ratio": "0.05 when neither warmup_ratio nor warmup_steps is given",
    "global_batch_size": "rows of a pass x passes x workers, at least 16 when no passes are given",
    "gradient_accumulation_steps": "global_batch_size / (per_device_train_batch_size x workers)",
    "per_device_eval_batch_size": "as per_device_train_batch_size",
    "eval_steps": "as checkpoint.save_steps",
    "gradient_checkpointing": "on with GPUs, off without",
}
"""What `plan --explain` says of a derived value, by its field."""


def resolved_sft(spec: SftSpec) -> SftSpec:
    """The spec with every value given; accumulation is told by the global batch size alone."""
    given = spec.training
    values = {
        "learning_rate": learning_rate(given, spec.tuner),
        "warmup_ratio": warmup_ratio(given),
        "global_batch_size": global_batch_size(given, spec.resources),
        "gradient_accumulation_steps": None,
        "per_device_eval_batch_size": given.per_device_eval_batch_size
        or given.per_device_train_batch_size,
        "eval_steps": given.eval_steps or spec.checkpoint.save_steps,
        "gradient_checkpointing": gradient_checkpointing(given, spec.resources),
    }
    return spec.model_copy(update={"training": given.model_copy(update=values)})


def learning_rate(training: TrainingSpec, tuner: LoraSpec | FullSpec) -> float:
    """The peak learning rate: adapters take larger steps than whole models."""
    if training.learning_rate is not None:
        return training.learning_rate
    return 1e-4 if isinstance(tuner, LoraSpec) else 1e-5


def warmup_ratio(training: TrainingSpec) -> float | None:
    """The share of steps to warm up for; None where the spec gives a number of steps."""
    if training.warmup_ratio is not None or training.warmup_steps is not None:
        return training.warmup_ratio
    return 0.05


def global_batch_size(training: TrainingSpec, resources: ResourcesSpec) -> int:
    """Rows in one optimiser step over all workers."""
    if training.global_batch_size:
        return training.global_batch_size
    pass_rows = training.per_device_train_batch_size * resources.workers
    passes = training.gradient_accumulation_steps or -(-LEAST_GLOBAL_BATCH // pass_rows)
    return passes * pass_rows


def accumulation_steps(training: TrainingSpec, resources: ResourcesSpec) -> int:
    """Passes of each worker before one optimiser step."""
    pass_rows = training.per_device_train_batch_size * resources.workers
    return global_batch_size(training, resources) // pass_rows


def gradient_checkpointing(training: TrainingSpec, resources: ResourcesSpec) -> bool:
    """Whether activations are recomputed: worth it where memory is dear."""
    if training.gradient_checkpointing is not None:
        return training.gradient_checkpointing
    return resources.gpus_per_worker > 0
