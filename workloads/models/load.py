"""Loads a model for training, and attaches what is trained of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from jobs.errors import UserError
from jobs.spec.tuner import FullSpec, LoraSpec

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_model(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a folder, its weights in `dtype`."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def attach_tuner(
    model: PreTrainedModel, tuner: LoraSpec | FullSpec, seed: int
) -> PreTrainedModel | PeftModel:
    """The model with the weights that the tuner trains, and no others, requiring gradients.

    An adapter's first weights follow from the seed alone, so all workers have the same.

    Raises:
        UserError: if a named layer does not exist in the model.
    """
    if isinstance(tuner, FullSpec):
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    targets = tuner.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuner.rank,
        lora_alpha=tuner.alpha,
        lora_dropout=tuner.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(tuner.modules_to_save) or None,
        use_rslora=tuner.use_rslora,
        use_dora=tuner.use_dora,
    )
    torch.manual_seed(seed)
    try:
        # The optimiser keeps float32 copies, so the adapter itself can have the model's precision:
        # it then needs no conversion of its inputs, the largest tensors of a step.
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        raise UserError(
            f"the adapter does not fit the model: {error}",
            f"linear layers of this model are {', '.join(sorted(linear))}; or set all-linear",
        ) from error
