"""Which models can be put in which form. Imports nothing heavy."""

from __future__ import annotations

GGUF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""The name that llama.cpp has for each architecture of transformers."""

PACKAGES = {
    "int8": "compressed_tensors",
    "fp8": "compressed_tensors",
    "bnb": "bitsandbytes",
    "ms": "modelscope_hub",
    "hf": "huggingface_hub",
    "s3": "boto3",
}
"""The module that a way of quantizing or a place to push to needs."""

EXTRAS = {
    "compressed_tensors": "cpu",
    "bitsandbytes": "bnb",
    "modelscope_hub": "modelscope",
    "huggingface_hub": "train",
    "boto3": "train",
}
"""The extra of raysmith that brings each module."""
