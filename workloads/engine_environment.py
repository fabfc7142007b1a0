"""What must be in an engine's environment before vLLM is imported, whatever it is used for."""

from __future__ import annotations


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
