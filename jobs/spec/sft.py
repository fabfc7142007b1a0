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
from jobs.spec.fields import Artifact, Input, ModelReference, SecretReference, StageSpec
from jobs.spec.resources import ResourcesSpec
from jobs.spec.training import TrainingSpec, check_places
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

    @property
    def produces(self) -> Artifact:
        """What the tuner trains."""
        return "adapter" if isinstance(self.tuner, LoraSpec) else "model"

    @property
    def takes(self) -> dict[str, Input]:
        """The model to start from, and datasets."""
        return {"model": Input(self.model, ("model",)), **self.dataset.taken}

    @property
    def processes_at_once(self) -> int:
        """The train workers."""
        return self.resources.workers

    @property
    def cpus_per_process(self) -> int | None:
        """CPU cores of each worker, where the spec says it."""
        return self.resources.cpus_per_worker

    @model_validator(mode="after")
    def _fits_its_places(self) -> SftSpec:
        check_places(self.training, self.resources)
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> SftSpec:
        if not self.checkpoint.load_best_model_at_end:
            return self
        if not self.dataset.validation:
            raise ValueError(
                "checkpoint.load_best_model_at_end compares checkpoints by validation rows, and "
                "there are none; set dataset.validation, such as 0.05"
            )
        saved = self.checkpoint.save_steps
        evaluated = self.training.eval_steps or saved
        if saved % evaluated:
            raise ValueError(
                f"checkpoint.load_best_model_at_end needs an evaluation of each checkpoint: "
                f"save_steps {saved} is no multiple of training.eval_steps {evaluated}; leave "
                "eval_steps out"
            )
        return self
