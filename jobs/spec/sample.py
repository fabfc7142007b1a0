"""`kind: sample`: a dataset of a model's own answers, as they are or the best of them.

    sample:
      kind: sample
      model: ${stages.sft.model}
      dataset: {prompts: [./problems.jsonl]}
      n: 8
      rewards: [{name: accuracy}]
      keep: {best: 1, min_reward: 1.0}     # rejection sampling
    distill:
      kind: sft
      dataset: {train: ["${stages.sample.dataset}"]}

Each prompt is answered `n` times and each answer scored by the rewards, as in GRPO. What is kept
becomes rows with `messages`, `reward`, `rewards` and `model`, which any stage takes as a dataset.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from jobs.spec.dataset import SampleRowsSpec
from jobs.spec.fields import (
    Artifact,
    Input,
    ModelReference,
    SecretReference,
    Spec,
    StageSpec,
)
from jobs.spec.generation import GenerationSpec, PoolSpec
from jobs.spec.rewards import RewardSpec, check_labels, reward_inputs


class SamplingSpec(GenerationSpec):
    """How answers are sampled. The words are transformers'."""

    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Divides the logits. 0 takes the likeliest token each time, so that one answer is all."""


class KeepSpec(Spec):
    """Which answers become rows. Those that could not be scored never do, where there are
    rewards."""

    best: PositiveInt | None = None
    """The most answers of one prompt: those with the highest rewards. All when absent."""
    min_reward: float | None = None
    """The least reward of an answer, as the weighted sum. Any when absent."""
    unique: bool = True
    """Keeps one of a prompt's equal answers."""
    truncated: bool = False
    """Keeps answers that were cut off at their greatest length too."""


class SampleSpec(StageSpec):
    """Has a model answer prompts, and makes a dataset of the answers."""

    kind: Literal["sample"]
    """Sampling a dataset."""
    model: ModelReference
    """A full model, or an adapter, which is used with its base model."""
    dataset: SampleRowsSpec
    """What to answer."""
    n: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Answers to each prompt."""
    generation: SamplingSpec = SamplingSpec()
    """How answers are sampled."""
    rewards: tuple[RewardSpec, ...] = ()
    """What scores answers; the weighted sum is an answer's reward."""
    keep: KeepSpec = KeepSpec()
    """Which answers become rows."""
    file_format: Literal["jsonl", "parquet"] = "jsonl"
    """How the dataset is written."""
    engine: PoolSpec = PoolSpec()
    """The engines that write the answers."""
    hub_token: SecretReference | None = None
    """Opens a gated model on the hub: `${secret:HF_TOKEN}`."""

    @property
    def produces(self) -> Artifact:
        """The answers that are kept."""
        return "dataset"

    @property
    def takes(self) -> dict[str, Input]:
        """The model, reward models, and datasets."""
        model = {"model": Input(self.model, ("model", "adapter", "export"))}
        return model | reward_inputs(self.rewards) | self.dataset.taken

    @property
    def processes_at_once(self) -> int:
        """The engines."""
        return self.engine.actors

    @property
    def cpus_per_process(self) -> int | None:
        """CPU cores of each engine, where the spec says it."""
        return self.engine.cpus_per_actor

    @model_validator(mode="after")
    def _parts_fit(self) -> SampleSpec:
        wanted = [key for key in ("best", "min_reward") if getattr(self.keep, key) is not None]
        if wanted and not self.rewards:
            raise ValueError(
                f"keep.{wanted[0]} goes by rewards, and there are none; add "
                "rewards: [{name: accuracy}], or take it out"
            )
        if self.n > 1 and not self.generation.temperature:
            raise ValueError(
                f"{self.n} answers at temperature 0 are all the same; set generation.temperature "
                "above 0, or n to 1"
            )
        if self.keep.best and self.keep.best > self.n:
            raise ValueError(f"keep.best is {self.keep.best}, and there are {self.n} answers (n)")
        check_labels(self.rewards)
        return self
