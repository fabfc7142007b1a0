"""How a model answers the rows of a dataset: how it samples, and the pool of engines it runs in.

Rows are cut into chunks, which the engines take as they get free. A chunk's answers are kept as
soon as it is done, so that a run that was cut off goes on with the chunks that are missing.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from jobs.spec.engine import EngineSpec
from jobs.spec.fields import Spec


class GenerationSpec(Spec):
    """How an answer is sampled. The words are transformers'."""

    max_new_tokens: PositiveInt = 512
    """The most tokens of an answer."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Divides the logits. 0 takes the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Samples from the likeliest tokens that have this probability together."""
    top_k: NonNegativeInt = 0
    """Samples from this many of the likeliest tokens. 0 is all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Samples from tokens that have this share of the likeliest one's probability."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Divides the logits of tokens that prompt or answer hold already. 1 changes nothing."""
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=16)] = ()
    """Texts that end an answer, and are no part of it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """What samples follow from, with the row's number; the job's seed when absent."""


class PoolSpec(EngineSpec):
    """A pool of vLLM engines, each in an actor that is replaced when it dies."""

    actors: int = Field(default=1, ge=1, le=10_000)
    """Engines in the pool."""
    gpus_per_actor: NonNegativeInt | None = None
    """GPUs of each engine. When absent: tensor_parallel_size where that is more than 1, else 0."""
    cpus_per_actor: PositiveInt | None = None
    """CPU cores of each engine. When absent: a local machine's cores shared among the engines, or
    4 on a cluster."""
    max_actor_restarts: NonNegativeInt = 5
    """How often engines are replaced, in all, before the stage fails."""

    @property
    def gpus(self) -> int:
        """GPUs of each engine."""
        if self.gpus_per_actor is not None:
            return self.gpus_per_actor
        return self.tensor_parallel_size if self.tensor_parallel_size > 1 else 0

    @model_validator(mode="after")
    def _gpus_hold_an_engine(self) -> PoolSpec:
        if self.tensor_parallel_size > 1 and self.gpus != self.tensor_parallel_size:
            raise ValueError(
                f"tensor_parallel_size {self.tensor_parallel_size} splits an engine over as many "
                f"GPUs, and gpus_per_actor is {self.gpus}; make them equal, or remove one"
            )
        return self
