"""How replicas are made: the stage's spec with every name turned into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.spec.fields import size_bytes
from jobs.spec.serve import ServeSpec
from workloads.engine import engine_environment, engine_rank
from workloads.models.adapter import base_model, check_adapter, lora_rank
from workloads.models.resolve import ModelSource
from workloads.models.taken import model_of
from workloads.serve.tool_calls import parser_for

_BASE = "@base"

ONE_EVENT_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""The environment in which Serve and ours share a thread: a token costs a switch less."""


@dataclass(frozen=True)
class Release:
    """One model that is served, with its adapters, and the replicas that hold it."""

    number: int
    """Counts from 1; an update makes the next one."""
    model: str
    """The folder of the model, or of an adapter's base model."""
    name: str
    """What clients call it, or the adapter that was given for it."""
    adapters: Mapping[str, str]
    """Folders of adapters by the name that clients choose them by."""
    max_lora_rank: int
    """The highest rank of any adapter; 0 where there are none."""

    @property
    def base_name(self) -> str:
        """What vLLM calls the model: where `name` is an adapter's, a name that no client has."""
        return f"{self.name}{_BASE}" if self.name in self.adapters else self.name

    @property
    def models(self) -> tuple[str, ...]:
        """The names that clients may ask for, the model's own first."""
        return (self.name, *(name for name in self.adapters if name != self.name))


@dataclass(frozen=True)
class ReplicaSettings:
    """What all replicas of the stage have in common."""

    threads: int
    """CPU cores to compute with."""
    cpus: int
    """What Ray accounts for each of them."""
    gpus: int
    seed: int


@dataclass(frozen=True)
class Origin:
    """Where models come from."""

    base_folders: tuple[str, ...]
    """Where relative paths are looked up."""
    fetch: Callable[[ModelSource], str]
    """Brings a model onto the machine that it is for, and gives its folder."""


def first_release(spec: ServeSpec, made: Mapping[str, Path], origin: Origin) -> Release:
    """What the spec says to serve. `made` are artifacts of stages, by the fields that name them.

    Raises:
        UserError: as `make_release` does.
    """
    name, folders = spec.served_model_name, origin.base_folders
    assert name, "resolved"
    adapters = {
        label: model_of(made, f"adapters.{label}", reference, folders)
        for label, reference in spec.adapters.items()
    }
    model = model_of(made, "model", spec.model, folders)
    return make_release(1, name, model, adapters, origin)


def make_release(
    number: int,
    name: str,
    model: ModelSource,
    adapters: Mapping[str, ModelSource],
    origin: Origin,
) -> Release:
    """A release whose models lie on this machine.

    Raises:
        UserError: if the model or an adapter's base can't be had, or engines can't take an adapter.
    """
    folders = {label: source.name for label, source in adapters.items()}
    base = model
    if model.is_adapter:
        base = base_model(Path(model.name), origin.base_folders)
        folders = {name: model.name} | folders
    paths = [Path(adapter) for adapter in folders.values()]
    for adapter in paths:
        check_adapter(adapter)
    return Release(number, origin.fetch(base), name, folders, max(map(lora_rank, paths), default=0))


def environment(spec: ServeSpec, settings: ReplicaSettings) -> dict[str, str]:
    """What must be in a replica's environment before it imports anything."""
    values = engine_environment(
        on_gpu=settings.gpus > 0,
        threads=settings.threads,
        kv_cache_bytes=size_bytes(spec.engine.kv_cache),
    )
    values |= ONE_EVENT_LOOP
    if not settings.gpus and spec.engine.tensor_parallel_size == 1:
        # The engine's process computes by itself. vLLM would start another one for that on CPUs, to
        # set OpenMP's variables in it, which are set here.
        values["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return values


def vllm_arguments(spec: ServeSpec, settings: ReplicaSettings, release: Release) -> list[str]:
    """The command line that `vllm serve` would be given for such an engine."""
    engine = spec.engine
    arguments = {
        "--model": release.model,
        "--served-model-name": release.base_name,
        "--dtype": engine.torch_dtype or "auto",
        "--seed": str(settings.seed),
        # -1: as much of the model's own as the memory has room for.
        "--max-model-len": str(engine.max_model_len or -1),
        "--max-num-seqs": str(engine.max_num_seqs),
        "--tensor-parallel-size": str(engine.tensor_parallel_size),
        # A call that a client asks for has the arguments that its schema says.
        "--tool-strict-level": "parameter",
        "--tool-call-parser": spec.tool_call_parser or parser_for(Path(release.model)),
    }
    flags = ["--disable-fastapi-docs", "--enable-auto-tool-choice"]
    if engine.enforce_eager or not settings.gpus:
        flags.append("--enforce-eager")
    if settings.gpus:
        arguments["--gpu-memory-utilization"] = str(engine.gpu_memory_utilization or 0.9)
    else:
        arguments["--kv-cache-memory-bytes"] = str(size_bytes(engine.kv_cache))
    if spec.limits.max_tokens:
        arguments["--override-generation-config"] = (
            f'{{"max_new_tokens": {spec.limits.max_tokens}}}'
        )
    if release.adapters:
        arguments |= {
            "--max-lora-rank": str(engine_rank(release.max_lora_rank)),
            "--max-loras": str(len(release.adapters)),
        }
        flags.append("--enable-lora")
    pairs = [text for pair in arguments.items() for text in pair]
    modules = [f"{name}={folder}" for name, folder in release.adapters.items()]
    return [*pairs, *flags, *(["--lora-modules", *modules] if modules else [])]
