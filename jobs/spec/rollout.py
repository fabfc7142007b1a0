"""The engines that write completions: how many, where, and how they sample."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jobs.spec.engine import EngineSpec


class RolloutSpec(EngineSpec):
    """A pool of vLLM engines, each in an actor that is replaced when it dies.

    Completions are sampled from the model's whole distribution: top-p and the like would make the
    sampled probabilities differ from those that are trained.
    """

    actors: int = Field(default=1, ge=1, le=10_000)
    """Engines in the pool."""
    num_generations: int = Field(default=8, ge=2, le=10_000)
    """Completions of each prompt; they are compared with one another."""
    max_completion_length: PositiveInt = 512
    """The most tokens of a completion, or of each turn where there is an environment."""
    temperature: float = Field(default=0.9, ge=0.01, le=10)
    """Divides the logits, in sampling and in training alike."""
    max_staleness: NonNegativeInt = 0
    """How many weight updates a completion may be behind when it is trained on. 0 is strictly
    on-policy: engines wait while weights are trained. From 1 on both go on at once."""
    engine: Literal["auto", "inprocess", "async"] = "auto"
    """vLLM in the actor's own process, or with an engine process beside it. When auto: async on
    GPUs, inprocess on CPUs, where it starts faster and takes less memory."""
    gpus_per_actor: NonNegativeInt | None = None
    """GPUs of each engine. When absent: tensor_parallel_size where training has GPUs, else 0."""
    cpus_per_actor: PositiveInt | None = None
    """CPU cores that each engine computes with. When absent: a local machine's cores shared among
    the engines, or 4 on a cluster."""
    colocate: bool = False
    """Puts each engine on a train worker's GPU: it sleeps while weights are trained."""
    weight_sync: Literal["full", "adapter"] = "full"
    """What is sent after an update: all weights, with an adapter merged into them, or the adapter
    alone, which needs GPUs to be fast."""
    request_timeout_s: PositiveFloat = 600.0
    """Seconds after which a prompt's completions are asked of another engine."""
    start_timeout_s: PositiveFloat = 600.0
    """Seconds that an engine may take to start."""
    sync_timeout_s: PositiveFloat = 120.0
    """Seconds that a weight update may take; engines that miss it are replaced."""
    max_actor_restarts: NonNegativeInt = 10
    """How often engines are replaced, in all, before the stage fails."""
    canary_tolerance: PositiveFloat | None = None
    """The mean difference between the engine's log-probabilities and the trainer's, on a fixed
    text after each update, that stops the run. When absent: 1e-3 in float32, 0.2 otherwise."""

    @model_validator(mode="after")
    def _parts_fit(self) -> RolloutSpec:
        if self.colocate and self.max_staleness:
            raise ValueError(
                "colocated engines sleep while weights are trained, so nothing can overlap; "
                "set max_staleness to 0, or colocate to false"
            )
        if self.colocate and self.tensor_parallel_size > 1:
            raise ValueError("a colocated engine has one GPU; set tensor_parallel_size to 1")
        return self
