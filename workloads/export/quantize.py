"""Weights of fewer bits, by one of several libraries.

`int8` and `fp8` follow from the weights alone: a scale to each output channel, and activations are
scaled token by token when the model runs. They are stored as compressed-tensors, which vLLM and
transformers read. `bnb` is bitsandbytes' NF4 with double quantization.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.spec.export import QuantizeSpec

METHODS = {
    "int8": "workloads.export.quantize:compress",
    "fp8": "workloads.export.quantize:compress",
    "bnb": "workloads.export.quantize:to_nf4",
}

SCHEMES = {"int8": "W8A8", "fp8": "FP8_DYNAMIC"}
"""compressed-tensors' names."""


def quantize(full: Path, target: Path, spec: QuantizeSpec, shard_bytes: int) -> None:
    """Reads the model in folder `full` and writes its quantized weights and config to `target`."""
    module, _, name = METHODS[spec.method].partition(":")
    getattr(import_module(module), name)(full, target, spec, shard_bytes)


def compress(full: Path, target: Path, spec: QuantizeSpec, shard_bytes: int) -> None:
    """Scales each linear layer's channels to 8 bits, and stores them as compressed-tensors."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        apply_quantization_config,
        preset_name_to_scheme,
    )
    from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized

    model = AutoModelForCausalLM.from_pretrained(full, dtype="auto")
    scheme = preset_name_to_scheme(SCHEMES[spec.method], ["Linear"])
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=list(spec.ignore), quantization_status="frozen"
    )
    apply_quantization_config(model, config)
    with torch.no_grad():
        for layer in filter(is_module_quantized, model.modules()):
            weight = layer.weight.float()  # (out, in)
            low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
            scale, zero_point = calculate_qparams(low, high, scheme.weights)  # (out, 1)
            layer.weight_scale.copy_(scale)
            layer.weight_zero_point.copy_(zero_point)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target, max_shard_size=shard_bytes)
    compressor.update_config(str(target))


def to_nf4(full: Path, target: Path, spec: QuantizeSpec, shard_bytes: int) -> None:
    """Stores the linear layers in bitsandbytes' NF4."""
    from transformers import BitsAndBytesConfig

    dtype: Any = AutoConfig.from_pretrained(full).dtype
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(spec.ignore),
    )
    model = AutoModelForCausalLM.from_pretrained(full, dtype=dtype, quantization_config=config)
    model.save_pretrained(target, max_shard_size=shard_bytes)
