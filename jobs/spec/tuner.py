"""Which of the model's weights are trained: low-rank adapters, or all of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from jobs.spec.fields import Spec

LayerNames = Annotated[tuple[str, ...], Field(min_length=1)]


class LoraSpec(Spec):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685), by PEFT."""

    type: Literal["lora"] = "lora"
    """Trains adapters and leaves the base model as it is."""
    rank: PositiveInt = 8
    """Rank of the update matrices."""
    alpha: PositiveFloat = 32
    """Scale of the update: the adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped in training."""
    target_modules: Literal["all-linear"] | LayerNames = "all-linear"
    """The layers that get an adapter: all linear ones but the output layer, or names of layers."""
    modules_to_save: tuple[str, ...] = ()
    """Layers to train in full and to save beside the adapter."""
    use_rslora: bool = False
    """Scales by alpha / sqrt(rank) instead (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Trains direction and magnitude apart (https://arxiv.org/abs/2402.09353)."""


class FullSpec(Spec):
    """Every weight of the model is trained."""

    type: Literal["full"]
    """Trains the whole model."""


TunerSpec = Annotated[LoraSpec | FullSpec, Field(discriminator="type")]
