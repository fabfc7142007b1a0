"""Folds an adapter into its base model, and checks that nothing else came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from jobs.errors import RaysmithError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit, that float32 sums may bring."""


def fold(base: str, adapter: str) -> PreTrainedModel:
    """The model in folder `base` with the adapter's update added to its weights, in float32.

    Raises:
        UserError: if the adapter does not fit the base model.
        RaysmithError: if the merged model computes something else than base and adapter.
    """
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    try:
        adapted = PeftModel.from_pretrained(model, adapter).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the adapter in {adapter} does not fit the base model in {base}: {error}",
            "check base_model_name_or_path in its adapter_config.json",
        ) from error
    probe = torch.arange(1, 17).unsqueeze(0) % model.config.vocab_size  # (1, 16)
    with torch.no_grad():
        expected = adapted(input_ids=probe).logits
        merged = adapted.merge_and_unload(safe_merge=True)
        difference = (merged(input_ids=probe).logits - expected).abs().max()
        share = float(difference / expected.abs().max())
    if not share <= _TOLERANCE:
        raise RaysmithError(
            f"the merged model's logits differ from base and adapter by {share:.2%}",
            "this kind of adapter can't be folded into its base: serve base and adapter instead",
        )
    return merged


def tokenizer_folder(base: str, adapter: str) -> str:
    """Where the tokenizer is: beside the adapter where it was trained with one of its own."""
    return adapter if Path(adapter, "tokenizer_config.json").is_file() else base
