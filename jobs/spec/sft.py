"""`kind: sft`: supervised fine-tuning on conversations.

    sft:
      kind: sft
      model: smollm2-135m-instruct
      dataset: {train: ["./alpaca.jsonl#500", self-cognition], validation: 0.02}
      tuner: {type: lora, rank: 8}
      training: {num_train_epochs: 1, global_batch_size: 16, deepspeed: zero2}

The loss is the cross-entropy of the assistant's turns, averaged over the tokens of the global
batch. The stage leaves an adapter (`type: lora`) or a full model (`type: full`) for other stages.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from jobs.spec.checkpoint import CheckpointSpec
from jobs.spec.dataset import DatasetSpec
from jobs.spec.fields import ModelReference, SecretReference, StageSpec
from jobs.spec.resources import ResourcesSpec
from jobs.spec.training import TrainingSpec
from jobs.spec.tuner import LoraSpec, TunerSpec


class SftSpec(StageSpec):
    """Supervised fine-tuning: the model learns the assistant's turns of conversations."""

    kind: Literal["sft"]
    """Supervised fine-tuning."""
    model: ModelReference
    """The full model to start from."""
    dataset: DatasetSpec
    """What to train and evaluate on."""
    tuner: TunerSpec = LoraSpec()
    """Which weights to train."""
    training: TrainingSpec = TrainingSpec()
    """Optimiser, schedule, precision, batch sizes."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When to save, and what to keep."""
    resources: ResourcesSpec = ResourcesSpec()
    """The workers to train on."""
    hub_token: SecretReference | None = None
    """Opens a gated model on the hub: `${secret:HF_TOKEN}`."""

    @model_validator(mode="after")
    def _batches_divide(self) -> SftSpec:
        size = self.training.global_batch_size
        pass_size = self.training.per_device_train_batch_size * self.resources.workers
        if size and size % pass_size:
            below = size // pass_size * pass_size
            nearest = f"{below} or {below + pass_size}" if below else str(pass_size)
            raise ValueError(
                f"global_batch_size {size} is not a multiple of per_device_train_batch_size x "
                f"workers = {pass_size}; choose {nearest}"
            )
        return self

    @model_validator(mode="after")
    def _float16_has_gpus(self) -> SftSpec:
        if self.training.torch_dtype == "float16" and not self.resources.gpus_per_worker:
            raise ValueError(
                "torch_dtype float16 needs GPUs, since DeepSpeed trains in it on few CPUs; "
                "choose bfloat16 or float32, or set resources.gpus_per_worker"
            )
        return self
