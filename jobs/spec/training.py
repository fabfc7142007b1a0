"""The optimiser, its schedule, precision, and how the work is split over the workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from jobs.spec.fields import Spec
from jobs.spec.resources import ResourcesSpec

Dtype = Literal["bfloat16", "float16", "float32"]
DeepSpeedStage = Literal[
    "zero0", "zero1", "zero2", "zero3", "zero1_offload", "zero2_offload", "zero3_offload"
]


class TrainingSpec(Spec):
    """Names and meanings are those of transformers' `TrainingArguments`."""

    num_train_epochs: float = Field(default=1.0, gt=0, le=1e6)
    """How often the dataset is passed over. Ignored when `max_steps` is given."""
    max_steps: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Optimiser steps to train for, over as many epochs as that takes."""
    learning_rate: PositiveFloat | None = None
    """The peak learning rate. When absent: 1e-4 for adapters, 1e-5 for full fine-tuning."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from its peak to zero after warm-up; constant keeps it."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps over which the learning rate rises to its peak. 0.05 when neither this nor
    `warmup_steps` is given."""
    warmup_steps: NonNegativeInt | None = None
    """Number of steps over which the learning rate rises to its peak."""
    per_device_train_batch_size: PositiveInt = 1
    """Rows in one forward and backward pass of one worker."""
    per_device_eval_batch_size: PositiveInt | None = None
    """Rows in one evaluation pass of one worker; as in training when absent."""
    gradient_accumulation_steps: PositiveInt | None = None
    """Passes of each worker before one optimiser step. When neither this nor `global_batch_size` is
    given: as many as make a global batch of at least 16 rows."""
    global_batch_size: PositiveInt | None = None
    """Rows in one optimiser step over all workers. The mathematics stays the same when the number
    of workers changes; accumulation is derived from it."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay of matrices; biases and norms have none."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_epsilon: PositiveFloat = 1e-8
    """Added to AdamW's denominator."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    torch_dtype: Dtype = "bfloat16"
    """Precision of weights and activations; the optimiser keeps float32 copies. float16 is for
    GPUs."""
    deepspeed: DeepSpeedStage = "zero0"
    """What DeepSpeed shares out over the workers: nothing, optimiser states (1), and gradients (2),
    and weights (3); `_offload` keeps optimiser states in host memory."""
    gradient_checkpointing: bool | None = None
    """Recomputes activations in the backward pass to save memory. When absent: on with GPUs, off on
    CPUs, where memory is plentiful and time is not."""
    logging_steps: PositiveInt = 1
    """Steps from one record in `logging.jsonl` to the next."""
    eval_steps: PositiveInt | None = None
    """Steps from one evaluation to the next; as `checkpoint.save_steps` when absent. The last step
    is always evaluated."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> TrainingSpec:
        if self.global_batch_size and self.gradient_accumulation_steps:
            raise ValueError(
                "global_batch_size and gradient_accumulation_steps exclude each other: "
                "accumulation is derived from the global batch size; remove one of them"
            )
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError("warmup_ratio and warmup_steps exclude each other; remove one of them")
        return self


def check_places(training: TrainingSpec, resources: ResourcesSpec) -> None:
    """Checks that a batch is whole passes of the workers, and that they train in this precision.

    Raises:
        ValueError: if not.
    """
    size = training.global_batch_size
    pass_size = training.per_device_train_batch_size * resources.workers
    if size and size % pass_size:
        below = size // pass_size * pass_size
        nearest = f"{below} or {below + pass_size}" if below else str(pass_size)
        raise ValueError(
            f"global_batch_size {size} is not a multiple of per_device_train_batch_size x "
            f"workers = {pass_size}; choose {nearest}"
        )
    if training.torch_dtype == "float16" and not resources.gpus_per_worker:
        raise ValueError(
            "training.torch_dtype float16 needs GPUs, since DeepSpeed trains in it on few CPUs; "
            "choose bfloat16 or float32, or set resources.gpus_per_worker"
        )
