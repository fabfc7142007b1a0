"""`kind: grpo`: reinforcement learning on completions that the model itself writes.

    grpo:
      kind: grpo
      model: smollm2-135m-instruct
      dataset: {train: ["./gsm8k.jsonl#1000"]}
      rewards: [{name: accuracy, weight: 1.0}, {name: format, weight: 0.1}]
      rollout: {actors: 2, num_generations: 8, max_completion_length: 512}
      algorithm: {loss_type: grpo, beta: 0.04}
      training: {max_steps: 200, learning_rate: 1e-6, global_batch_size: 64}

A pool of vLLM engines writes `num_generations` completions for each prompt; rewards score them; a
completion that scores above its group's mean becomes likelier. Batch sizes count completions.
"""

from __future__ import annotations

from math import lcm
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobs.spec.algorithm import AlgorithmSpec
from jobs.spec.checkpoint import CheckpointSpec
from jobs.spec.dataset import PromptsSpec
from jobs.spec.environment import EnvironmentSpec
from jobs.spec.fields import Artifact, Input, ModelReference, SecretReference, StageSpec
from jobs.spec.resources import ResourcesSpec
from jobs.spec.rewards import RewardSpec, check_labels, reward_inputs
from jobs.spec.rollout import RolloutSpec
from jobs.spec.training import TrainingSpec, check_places
from jobs.spec.tuner import LoraSpec, TunerSpec


class GrpoSpec(StageSpec):
    """Group relative policy optimisation, and the members of its family."""

    kind: Literal["grpo"]
    """Reinforcement learning from rewards."""
    model: ModelReference
    """The full model to start from."""
    dataset: PromptsSpec
    """The prompts to complete."""
    rewards: Annotated[tuple[RewardSpec, ...], Field(min_length=1)]
    """What scores a completion; their weighted sum is the reward."""
    rollout: RolloutSpec = RolloutSpec()
    """The engines that write completions, and how they write."""
    environment: EnvironmentSpec | None = None
    """What answers the model between its turns; without it a completion is a single turn."""
    algorithm: AlgorithmSpec = AlgorithmSpec()
    """From rewards to a loss."""
    tuner: TunerSpec = LoraSpec()
    """Which weights to train."""
    training: TrainingSpec = TrainingSpec()
    """Optimiser, schedule, precision, batch sizes; batches count completions."""
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
        """The model to start from, reward models, and datasets."""
        model = {"model": Input(self.model, ("model",))}
        return model | reward_inputs(self.rewards) | self.dataset.taken

    @property
    def processes_at_once(self) -> int:
        """Train workers, and the engines where they work meanwhile and do not take turns."""
        return self.resources.workers + (self.rollout.actors if self.rollout.max_staleness else 0)

    @property
    def cpus_per_process(self) -> int | None:
        """The most CPU cores that the spec gives a worker or an engine."""
        given = (self.resources.cpus_per_worker, self.rollout.cpus_per_actor)
        return max((cpus for cpus in given if cpus), default=None)

    @property
    def generation_batch_size(self) -> int:
        """Completions that are generated together; the plan has derived the batch size."""
        assert self.training.global_batch_size
        return self.training.global_batch_size * self.algorithm.steps_per_generation

    @property
    def prompts_per_generation(self) -> int:
        """Prompts of a generation batch."""
        return self.generation_batch_size // self.rollout.num_generations

    @property
    def least_batch(self) -> int:
        """The batch size that all others are multiples of."""
        pass_rows = self.training.per_device_train_batch_size * self.resources.workers
        return lcm(pass_rows, self.rollout.num_generations)

    @property
    def sends_adapter(self) -> bool:
        """Whether engines are sent the adapter alone."""
        return self.rollout.weight_sync == "adapter" and isinstance(self.tuner, LoraSpec)

    @model_validator(mode="after")
    def _batches_divide(self) -> GrpoSpec:
        training, group = self.training, self.rollout.num_generations
        check_places(training, self.resources)
        size = training.global_batch_size
        if training.gradient_accumulation_steps:
            pass_rows = training.per_device_train_batch_size * self.resources.workers
            size = training.gradient_accumulation_steps * pass_rows
        if not size:
            return self
        generated = size * self.algorithm.steps_per_generation
        if generated % group:
            raise ValueError(
                f"{generated} completions at a time can't be cut into groups of num_generations "
                f"{group}; choose a global_batch_size that is a multiple of {self.least_batch}"
            )
        return self

    @model_validator(mode="after")
    def _rewards_have_names_of_their_own(self) -> GrpoSpec:
        check_labels(self.rewards)
        return self

    @model_validator(mode="after")
    def _nothing_is_unread(self) -> GrpoSpec:
        unread = [
            name
            for name in ("eval_steps", "per_device_eval_batch_size")
            if getattr(self.training, name)
        ]
        if unread:
            raise ValueError(
                f"training.{unread[0]} has no meaning here: the reward of every step is measured; "
                "remove it"
            )
        if self.checkpoint.load_best_model_at_end:
            raise ValueError(
                "checkpoint.load_best_model_at_end has no meaning here: there are no validation "
                "rows; remove it"
            )
        if self.rollout.weight_sync == "adapter" and not isinstance(self.tuner, LoraSpec):
            raise ValueError(
                "rollout.weight_sync adapter needs an adapter to send: set tuner type lora, or "
                "weight_sync full"
            )
        if self.sends_adapter and isinstance(self.tuner, LoraSpec):
            beyond = "use_dora" if self.tuner.use_dora else "modules_to_save"
            if self.tuner.use_dora or self.tuner.modules_to_save:
                raise ValueError(
                    f"rollout.weight_sync adapter and tuner.{beyond} exclude each other, since "
                    "engines take plain LoRA alone; set weight_sync to full"
                )
        if self.rollout.colocate and self.rollout.actors != self.resources.workers:
            raise ValueError(
                f"colocated engines share the workers' GPUs, one each: rollout.actors is "
                f"{self.rollout.actors} and resources.workers {self.resources.workers}; make them "
                "equal"
            )
        if self.rollout.colocate and self.resources.gpus_per_worker < 1:
            raise ValueError(
                "rollout.colocate shares the workers' GPUs, and they have no whole ones; remove "
                "it, or set resources.gpus_per_worker to 1"
            )
        if self.rollout.tensor_parallel_size > 1 and not (
            self.resources.gpus_per_worker or self.rollout.gpus_per_actor
        ):
            raise ValueError(
                "rollout.tensor_parallel_size splits an engine over GPUs, and there are none; "
                "remove it, or set rollout.gpus_per_actor"
            )
        return self
