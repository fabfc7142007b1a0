"""A vLLM engine: how much it holds, how it computes. The words are vLLM's own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from jobs.spec.fields import ByteSize, Spec
from jobs.spec.training import Dtype


class EngineSpec(Spec):
    """How an engine is made, whatever it is used for."""

    tensor_parallel_size: PositiveInt = 1
    """GPUs that one engine's weights are split over."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory that an engine takes. When absent: 0.9, or 0.45 when colocated."""
    kv_cache: ByteSize = "1GB"
    """Memory of each engine's KV cache on CPUs."""
    max_num_seqs: PositiveInt = 64
    """Completions that an engine works on at once."""
    max_model_len: PositiveInt | None = None
    """Tokens of prompt and completion together. When absent: the longest prompt and completion."""
    enforce_eager: bool = False
    """Does without CUDA graphs, which costs speed and saves memory."""
    torch_dtype: Dtype | None = None
    """Precision of the engine's weights; the model's own, or training's, when absent."""
