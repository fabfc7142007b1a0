"""The optimiser's whole state, apart from how DeepSpeed has shared it out.

Each trained weight has a float32 copy and AdamW's two moments. Here they have the weight's own
name and shape, so that a checkpoint written with any ZeRO stage and number of workers is read with
any other. `gather` is collective: every worker calls it for the same weights in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "fp32"


def trained_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and weights that are trained, in the model's order."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def gather(engine: DeepSpeedEngine, parameter: nn.Parameter) -> dict[str, Tensor]:
    """One weight's float32 copy and moments, whole, on the CPU, on every worker."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if _in_zero_3(parameter) or _in_zero_1_2(parameter):
        tensors = {WEIGHT: safe_get_full_fp32_param(parameter)}
        for moment in MOMENTS:
            tensors[moment] = safe_get_full_optimizer_state(parameter, moment)
    else:
        master = _masters(engine)[parameter]
        state = engine.optimizer.state[master]
        tensors = {WEIGHT: master, **{moment: state[moment] for moment in MOMENTS}}
    return {key: tensor.detach().float().cpu().contiguous() for key, tensor in tensors.items()}


def allocate(engine: DeepSpeedEngine, steps: int) -> None:
    """Makes the optimiser's states, which it otherwise makes in its first step.

    They are zero but for the count of `steps`, which AdamW's bias correction follows from.
    """
    optimizer = engine.optimizer
    base, flat = _base(engine), _flat_partitions(engine)
    for tensor in flat if flat is not None else _masters(engine).values():
        moments = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
        base.state[tensor] = {"step": _counter(base, tensor, steps), **moments}
    if flat is not None and not hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer._lazy_init_hp_params_optimizer_state()


def scatter(engine: DeepSpeedEngine, parameter: nn.Parameter, tensors: dict[str, Tensor]) -> None:
    """Sets what `gather` returned; `allocate` has been called, and the weight itself is loaded."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    tensors = {key: tensor.to(engine.device) for key, tensor in tensors.items()}
    if _in_zero_3(parameter):
        _scatter_zero_3(parameter, tensors)
    elif _in_zero_1_2(parameter):
        safe_set_full_fp32_param(parameter, tensors[WEIGHT])
        for moment in MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[moment], moment)
    else:
        master = _masters(engine)[parameter]
        with torch.no_grad():
            master.copy_(tensors[WEIGHT])
            for moment in MOMENTS:
                engine.optimizer.state[master][moment].copy_(tensors[moment])


def loss_scale(engine: DeepSpeedEngine) -> dict[str, Any]:
    """The state of float16's loss scaling; empty for other precisions."""
    scaler = _loss_scaler(engine)
    if scaler is None:
        return {}
    return {key: value for key, value in vars(scaler).items() if isinstance(value, int | float)}


def set_loss_scale(engine: DeepSpeedEngine, state: dict[str, Any]) -> None:
    """Sets what `loss_scale` returned."""
    scaler = _loss_scaler(engine)
    if scaler is not None:
        vars(scaler).update(state)


def _loss_scaler(engine: DeepSpeedEngine) -> object | None:
    if not engine.fp16_enabled():
        return None
    zero = getattr(engine.optimizer, "loss_scaler", None)
    return zero if zero is not None else engine.optimizer.loss_scale_config


def _in_zero_3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def _in_zero_1_2(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "_hp_mapping")


def _scatter_zero_3(parameter: nn.Parameter, tensors: dict[str, Tensor]) -> None:
    """Copies this worker's part; the last part of a weight may be padded beyond its end."""
    from deepspeed.utils import (
        safe_get_local_fp32_param,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    size = safe_get_local_fp32_param(parameter).numel()
    start = size * torch.distributed.get_rank()
    for key, tensor in tensors.items():
        part = torch.zeros(size, device=tensor.device)
        mine = tensor.flatten()[start : start + size]
        part[: len(mine)] = mine
        if key == WEIGHT:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, key)


def _base(engine: DeepSpeedEngine) -> torch.optim.Optimizer:
    """The optimiser that DeepSpeed wraps, or the one that it left as it is."""
    optimizer = engine.optimizer
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def _flat_partitions(engine: DeepSpeedEngine) -> list[Tensor] | None:
    """The flat float32 tensors that ZeRO updates on this worker; None without ZeRO."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    return None


def _masters(engine: DeepSpeedEngine) -> dict[nn.Parameter, Tensor]:
    """Without ZeRO: the float32 tensor that is updated for each trained weight."""
    optimizer = engine.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        return {parameter: parameter for _, parameter in trained_parameters(engine.module)}
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {p: master for low, high in pairs for p, master in zip(low, high, strict=True)}


def _counter(base: torch.optim.Optimizer, tensor: Tensor, steps: int) -> Tensor | int:
    # torch's fused AdamW keeps its count in a tensor beside the weights, DeepSpeed's in an int.
    if isinstance(base, torch.optim.AdamW):
        return torch.tensor(float(steps), device=tensor.device)
    return steps
