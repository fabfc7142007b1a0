"""DeepSpeed: its configuration from the spec, and one call that makes the engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from jobs.spec.training import TrainingSpec

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

_STAGE = re.compile(r"^zero(?P<stage>[0-3])(?P<offload>_offload)?$")


def zero_stage(training: TrainingSpec) -> tuple[int, bool]:
    """The ZeRO stage, and whether optimiser states are kept in host memory."""
    match = _STAGE.match(training.deepspeed)
    assert match, training.deepspeed
    return int(match["stage"]), bool(match["offload"])


def deepspeed_config(training: TrainingSpec, passes: int) -> dict[str, Any]:
    """DeepSpeed's configuration; `passes` is the number of micro-batches of one step."""
    stage, offload = zero_stage(training)
    zero: dict[str, Any] = {"stage": stage}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": training.per_device_train_batch_size,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": 0.0 if _is_plain(training) else training.max_grad_norm,
        "bf16": {"enabled": training.torch_dtype == "bfloat16"},
        "fp16": {"enabled": training.torch_dtype == "float16", "initial_scale_power": 12},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


@contextmanager
def hold_partitioned(training: TrainingSpec) -> Iterator[None]:
    """Has transformers load a model straight into ZeRO-3's partitions, never whole on a worker."""
    if zero_stage(training)[0] < 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # transformers looks the configuration up through a weak reference to this object.
    config = HfDeepSpeedConfig(deepspeed_config(training, 1))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


def _is_plain(training: TrainingSpec) -> bool:
    """Whether DeepSpeed leaves the optimiser as it is, and so knows no norm of the gradients."""
    return zero_stage(training)[0] == 0 and training.torch_dtype == "float32"


def make_engine(model: nn.Module, training: TrainingSpec, passes: int) -> DeepSpeedEngine:
    """The engine around a model. The process group must exist; collective over all workers."""
    import deepspeed

    # Only inference uses this collective; its build takes half a minute and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=_optimizer(model, training),
        config=deepspeed_config(training, passes),
        dist_init_required=False,
    )
    return engine


def step(engine: DeepSpeedEngine, training: TrainingSpec, rate: float) -> float | None:
    """Updates the weights at the end of a global batch, and counts a pass before that.

    Returns the norm of the gradients before they were clipped, at the end of a global batch.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return None
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    if not _is_plain(training):
        engine.step()
        return float(engine.get_global_grad_norm())
    trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    limit = training.max_grad_norm or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(trained, limit)
    engine.step()
    return float(norm)


def _optimizer(model: nn.Module, training: TrainingSpec) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if _dims(p) > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if _dims(p) <= 1], "weight_decay": 0.0},
    ]
    settings: dict[str, Any] = {
        # Set before each step. Until then 0, since without ZeRO DeepSpeed takes a step without
        # gradients to allocate its states.
        "lr": 0.0,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
    }
    groups = [group for group in groups if group["params"]]
    if zero_stage(training)[1] and torch.cuda.is_available():
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, adamw_mode=True, **settings)
    return torch.optim.AdamW(groups, fused=True, **settings)


def _dims(parameter: nn.Parameter) -> int:
    # Under ZeRO-3 a weight is an empty vector here; DeepSpeed keeps its true shape.
    return len(getattr(parameter, "ds_shape", parameter.shape))
