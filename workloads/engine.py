"""How a vLLM engine is made: its environment and its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_EXTENSION = "workloads.grpo.gloo_transfer.WorkerExtension"

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
MAX_LORA_RANK = _LORA_RANKS[-1]


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is made."""

    model: str
    """The model's folder."""
    dtype: str
    """As transformers names it; `auto` leaves it to vLLM."""
    transfer_backend: str | None
    """vLLM's name of what weights arrive by; None where they stay as they are."""
    max_model_len: int | None
    """Tokens of prompt and answer together; as many as the model looks at when None."""
    max_num_seqs: int
    seed: int
    threads: int
    """CPU cores to compute with."""
    on_gpu: bool
    in_process: bool
    tensor_parallel_size: int = 1
    kv_cache_bytes: int = 2**30
    """Of engines on CPUs."""
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    sleeps: bool = False
    """Whether it gives its GPU's memory back between generations."""
    max_lora_rank: int | None = None
    """The most rank of adapters that the model is used with; None where it is used without."""
    max_loras: int = 1
    lora_layers: tuple[str, ...] = ()
    """The last names of the layers that adapters change; all that can be where it is empty."""


def environment(settings: EngineSettings) -> dict[str, str]:
    """What must be in an engine's environment before vLLM is imported."""
    values = engine_environment(
        on_gpu=settings.on_gpu, threads=settings.threads, kv_cache_bytes=settings.kv_cache_bytes
    )
    if settings.transfer_backend == "ipc":
        # Its handles, which come from our own trainer alone, are no plain data.
        values["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if settings.in_process or not settings.on_gpu:
        values["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return values


def engine_environment(*, on_gpu: bool, threads: int, kv_cache_bytes: int) -> dict[str, str]:
    """Environment variables of a process that holds a vLLM engine.

    `threads` and `kv_cache_bytes` are of engines on CPUs.
    """
    values = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if on_gpu:
        return values
    return values | {
        # Else each engine takes the machine's cores in the same order, the first one first.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, -(-kv_cache_bytes // 2**30))),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "10000",
    }


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """vLLM's arguments."""
    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "enforce_eager": settings.enforce_eager or not settings.on_gpu,
        "tensor_parallel_size": settings.tensor_parallel_size,
        # Of the distribution that is sampled from, so after temperature.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
    }
    if settings.transfer_backend:
        from vllm.config import WeightTransferConfig

        backend = WeightTransferConfig(backend=settings.transfer_backend)
        arguments["weight_transfer_config"] = backend
    if settings.on_gpu:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
        arguments["enable_sleep_mode"] = settings.sleeps
    else:
        if settings.transfer_backend:
            arguments["worker_extension_cls"] = _EXTENSION
        arguments["kv_cache_memory_bytes"] = settings.kv_cache_bytes
    if settings.max_lora_rank:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": settings.max_lora_rank,
            "max_loras": settings.max_loras,
            "lora_target_modules": list(settings.lora_layers) or None,
        }
    return arguments


def engine_rank(rank: int) -> int:
    """The least rank that vLLM has kernels for and an adapter of this rank fits in.

    Raises:
        ValueError: if there is none.
    """
    fits = [known for known in _LORA_RANKS if known >= rank]
    if not fits:
        raise ValueError(f"rank {rank} is beyond {MAX_LORA_RANK}, the most that vLLM takes")
    return fits[0]
