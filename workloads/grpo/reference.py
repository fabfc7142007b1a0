"""The reference model of the KL divergence: the policy as it was, without a second model.

With a LoRA adapter it is the model with the adapter off. Else its weights are kept beside the
policy's, shared out over the workers as they are, and put in their place for a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workloads.grpo.policy_weights import gathered
from workloads.train.state import trained_parameters

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Reference:
    """The reference for one engine; passes within `active` are its own."""

    def __init__(
        self, engine: DeepSpeedEngine, *, follows: bool, start: Mapping[str, Tensor] | None
    ) -> None:
        """`follows`: it is to be mixed with the policy at times. `start` are its trained weights,
        whole and by name, where they are not the policy's present ones."""
        self._module = engine.module
        self._switches_off = hasattr(self._module, "disable_adapter") and not follows
        self._kept: dict[str, list[Tensor]] = {}
        if self._switches_off:
            return
        for name, parameter in trained_parameters(self._module):
            slots = _slots(parameter)
            if start is None:
                self._kept[name] = [slot.data.clone() for slot in slots]
            else:
                self._kept[name] = [_part(start[name], parameter, slot) for slot in slots]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the engine's module the reference."""
        if self._switches_off:
            with self._module.disable_adapter():
                yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def follow(self, alpha: float) -> None:
        """Moves it towards the policy: alpha x policy + (1 - alpha) x reference."""
        for name, parameter in trained_parameters(self._module):
            for kept, slot in zip(self._kept[name], _slots(parameter), strict=True):
                kept.lerp_(slot.data.to(kept.dtype), alpha)

    def weights(self) -> dict[str, Tensor]:
        """Its trained weights, whole, on the CPU, on the first worker. Collective."""
        whole: dict[str, Tensor] = {}
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        with self.active():
            for name, parameter in trained_parameters(self._module):
                with gathered([parameter]):
                    if first:
                        whole[name] = parameter.detach().cpu().clone()
        return whole

    def _swap(self) -> None:
        for name, parameter in trained_parameters(self._module):
            for index, slot in enumerate(_slots(parameter)):
                slot.data, self._kept[name][index] = self._kept[name][index], slot.data


def _slots(parameter: nn.Parameter) -> list[Any]:
    """The tensors that hold a weight on this worker."""
    if not hasattr(parameter, "ds_id"):
        return [parameter]
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    # Small weights are kept whole after a pass; that copy would outlive the exchange of the parts.
    if parameter.ds_status is ZeroParamStatus.AVAILABLE:
        parameter.partition()
    return [parameter.ds_tensor]


def _part(whole: Tensor, parameter: nn.Parameter, slot: Any) -> Tensor:
    """What of a whole weight a slot holds; the last worker's part may be padded."""
    whole = whole.to(slot.device, slot.dtype)
    if slot is parameter:
        return whole.clone()
    part = torch.zeros_like(slot.data)
    start = slot.numel() * torch.distributed.get_rank()
    mine = whole.flatten()[start : start + slot.numel()]
    part[: len(mine)] = mine
    return part
