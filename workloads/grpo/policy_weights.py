"""The policy's weights as the engines load them: whole, under the checkpoint's names, merged.

ZeRO-3's parts are gathered bucket by bucket, and adapters folded in on the way, so no worker ever
holds a second copy of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from workloads.grpo.gloo_transfer import buckets

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class _Entry:
    name: str
    weight: nn.Parameter
    layer: LoraLayer | None
    """The layer whose adapter is folded into the weight."""

    @property
    def shape(self) -> tuple[int, ...]:
        # Under ZeRO-3 a weight is an empty vector here; DeepSpeed keeps its true shape.
        return tuple(getattr(self.weight, "ds_shape", self.weight.shape))

    @property
    def parts(self) -> list[nn.Parameter]:
        """The weight and those that are folded into it."""
        if self.layer is None:
            return [self.weight]
        adapter = [p for n, p in self.layer.named_parameters() if "lora_" in n]
        return [self.weight, *adapter]


class PolicySource(WeightSource):
    """What vLLM's trainer side reads the weights from. Iterating is collective under ZeRO-3."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """`model` may have LoRA adapters; weights are sent in `dtype`."""
        self._dtype = dtype
        self._entries = list(_entries(model))

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and whole shapes."""
        return [ParamMeta(entry.name, self._dtype, entry.shape) for entry in self._entries]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        sizes = [prod(entry.shape) * self._dtype.itemsize for entry in self._entries]
        for bucket in buckets(sizes):
            entries = self._entries[bucket]
            with gathered([part for entry in entries for part in entry.parts]):
                for entry in entries:
                    yield entry.name, _whole(entry).to(self._dtype)


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
    """Makes ZeRO-3's weights whole within the context; nothing for others. Collective."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(parameters)
    return context


def _entries(model: nn.Module) -> Iterator[_Entry]:
    layers = {
        f"{name}.base_layer.weight": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    for name, parameter in model.named_parameters():
        if ".lora_" in name or ".original_module." in name:
            continue
        yield _Entry(checkpoint_name(name), parameter, layers.get(name))


def checkpoint_name(name: str) -> str:
    """A weight's name in the model's checkpoint, without what PEFT wraps around it."""
    name = name.removeprefix(_PEFT_PREFIX)
    return name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


@torch.no_grad()
def _whole(entry: _Entry) -> Tensor:
    weight = entry.weight.detach()
    if entry.layer is None or "default" not in entry.layer.active_adapters:
        return weight
    layer: Any = entry.layer
    merged = weight.float() + layer.get_delta_weight("default").float()
    if layer.use_dora.get("default"):
        magnitude = layer.lora_magnitude_vector["default"].weight.float()
        inputs = 0 if getattr(layer, "fan_in_fan_out", False) else 1
        merged = merged * (magnitude / merged.norm(dim=inputs)).unsqueeze(inputs)
    return merged
