"""Writes a model as a GGUF file, for llama.cpp and what is built on it.

Names of tensors and keys are those of the `gguf` package, which llama.cpp's own converter uses too.
Weights are read, converted and written one at a time. Matrices whose rows are no whole number of a
type's blocks are stored in float16, as llama.cpp does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors import safe_open
from transformers import AutoConfig

from jobs.errors import UserError
from workloads.export.forms import GGUF_ARCHITECTURES
from workloads.export.gguf_tokenizer import add_tokenizer

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q5_1": gguf.LlamaFileType.MOSTLY_Q5_1,
    "q5_0": gguf.LlamaFileType.MOSTLY_Q5_0,
    "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
_SENSITIVE = ("token_embd.weight", "output.weight")
"""What turns tokens into numbers and back: kept at 8 bits where all else has fewer."""


@dataclass(frozen=True)
class _Tensor:
    """One tensor as the file has it."""

    name: str
    source: str
    """Its name in the model."""
    shape: tuple[int, ...]
    type: Type

    @property
    def size_bytes(self) -> int:
        """What it takes in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // block * size


def write_gguf(folder: Path, target: Path, outtype: str, name: str) -> None:
    """Writes the model in a folder to one GGUF file, with its tokenizer and chat template.

    Raises:
        UserError: if llama.cpp has no such architecture, positions or tokenizer, as far as this
            writer knows.
    """
    config = AutoConfig.from_pretrained(folder)
    architecture = gguf_architecture(config.architectures[0])
    arch = {text: key for key, text in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    weights = _Weights(folder)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors = [_described(key, weights, names, outtype) for key in weights.names]
    writer = gguf.GGUFWriter(target, architecture)
    _add_settings(writer, config, outtype, name)
    add_tokenizer(writer, folder, config.vocab_size)
    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.size_bytes, tensor.type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in tensors:
        values = weights.read(tensor.source)
        if architecture == "llama":
            values = _rotated(values, tensor.source, config)
        writer.write_tensor_data(gguf.quantize(values.numpy(), tensor.type))
    writer.close()


def gguf_architecture(architecture: str) -> str:
    """llama.cpp's name of an architecture of transformers.

    Raises:
        UserError: if this writer does not know it.
    """
    if architecture not in GGUF_ARCHITECTURES:
        raise UserError(
            f"a {architecture} can't be written as GGUF",
            f"take `gguf` and `ollama` out; known are {', '.join(GGUF_ARCHITECTURES)}",
        )
    return GGUF_ARCHITECTURES[architecture]


class _Weights:
    """The weights of a folder, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self._files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            with safe_open(folder / "model.safetensors", "pt") as file:
                self._files = dict.fromkeys(file.keys(), "model.safetensors")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        with safe_open(self._folder / self._files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self._folder / self._files[name], "pt") as file:
            return file.get_tensor(name).float()


def _described(name: str, weights: _Weights, names: Any, outtype: str) -> _Tensor:
    known = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if known is None:
        raise UserError(
            f"the model's weight {name!r} has no name in GGUF", "take `gguf` and `ollama` out"
        )
    shape = weights.shape(name)
    return _Tensor(known, name, shape, _type(known, shape, outtype))


def _type(name: str, shape: tuple[int, ...], outtype: str) -> Type:
    if len(shape) == 1:
        return Type.F32
    wanted = Type[outtype.upper()]
    if name in _SENSITIVE and outtype.startswith(("q4", "q5")):
        wanted = Type.Q8_0
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else Type.F16


def _add_settings(writer: gguf.GGUFWriter, config: Any, outtype: str, name: str) -> None:
    head = _head_dim(config)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[outtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    positions = config.rope_parameters
    writer.add_rope_freq_base(positions["rope_theta"])
    kind = positions.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(positions["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(positions["factor"])
        writer.add_rope_scaling_orig_ctx_len(positions["original_max_position_embeddings"])
    elif kind not in ("default", "llama3"):
        raise UserError(
            f"positions of type {kind!r} can't be written as GGUF", "take `gguf` and `ollama` out"
        )


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rotated(values: torch.Tensor, name: str, config: Any) -> torch.Tensor:
    """Queries and keys with the two halves of each head interleaved, as llama.cpp rotates them."""
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }.get(name.split(".")[-2])
    if heads is None:
        return values
    rest = values.shape[1:]
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *rest)
    return halves.transpose(1, 2).reshape(values.shape).contiguous()


def _rope_factors(config: Any) -> np.ndarray | None:
    """What Llama 3 divides each frequency by, (head_dim / 2,); None for other models."""
    positions = config.rope_parameters
    if positions.get("rope_type") != "llama3":
        return None
    return np.array(list(_llama3_factors(positions, _head_dim(config))), dtype=np.float32)


def _llama3_factors(positions: dict[str, Any], head: int) -> Iterator[float]:
    factor, context = positions["factor"], positions["original_max_position_embeddings"]
    low, high = positions["low_freq_factor"], positions["high_freq_factor"]
    for index in range(0, head, 2):
        wavelength = 2 * np.pi * positions["rope_theta"] ** (index / head)
        if wavelength < context / high:
            yield 1.0
        elif wavelength > context / low:
            yield factor
        else:
            smooth = (context / wavelength - low) / (high - low)
            yield 1 / ((1 - smooth) / factor + smooth)
