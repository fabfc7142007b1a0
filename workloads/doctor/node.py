"""What a node says of itself. These functions run on the node, as Ray tasks."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.fingerprint import fingerprint, installed_fingerprint
from jobs.errors import RaysmithError
from storage.backend import Backend, open_backend
from storage.local import LocalBackend
from storage.probe import NO_ABILITIES, Abilities, probe
from storage.uri import parse_uri
from storage.working_copy import copy_of

ENGINES = (
    "ray", "torch", "transformers", "peft", "deepspeed", "datasets", "vllm", "numpy", "pyarrow",
)  # fmt: skip
"""The libraries that decide whether nodes understand one another, and what comes out."""

PROBE_BYTES = 64 * 2**20
_GPU_QUERY = (
    "index,name,memory.total,memory.used,temperature.gpu,ecc.errors.uncorrected.volatile.total"
)
_GPU_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Node:
    """A node as Ray counts it."""

    id: str
    address: str
    cpus: float
    gpus: float
    memory_bytes: float
    objects_bytes: float
    is_head: bool


@dataclass(frozen=True)
class Gpu:
    """What nvidia-smi says of a GPU."""

    index: int
    name: str
    memory_mib: int
    used_mib: int
    temperature_c: int | None
    uncorrected_errors: int | None
    """Memory errors since the driver was loaded; None where the GPU does not count them."""


@dataclass(frozen=True)
class NodeFacts:
    """A node, as seen from itself."""

    host: str
    python: str
    versions: dict[str, str]
    """Of `ENGINES` that are installed."""
    code: str
    """Fingerprint of our code, as tasks run it."""
    installed_code: str | None
    """Fingerprint of our code that is installed there."""
    shared_memory_bytes: int
    """Size of /dev/shm."""
    free_disk_bytes: int
    """Free room in the folder for temporary files."""
    gpus: tuple[Gpu, ...]
    gpu_error: str | None
    """Why the GPUs could not be asked, where there should be some."""


@dataclass(frozen=True)
class StorageFacts:
    """What a node can do in the storage."""

    error: str | None = None
    write_bytes_per_s: float = 0.0
    read_bytes_per_s: float = 0.0
    abilities: Abilities = NO_ABILITIES
    """The conditional writes that it does."""
    seen: tuple[str, ...] = field(default=())
    """The marks of other nodes that this one sees."""


def facts(expects_gpus: bool) -> NodeFacts:
    """What this node is. `expects_gpus` says whether Ray counts GPUs here."""
    gpus, error = _gpus() if expects_gpus else ((), None)
    return NodeFacts(
        host=socket.gethostname(),
        python=platform.python_version(),
        versions=dict(_versions()),
        code=fingerprint(),
        installed_code=installed_fingerprint(),
        shared_memory_bytes=_size("/dev/shm"),
        free_disk_bytes=shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free,
        gpus=gpus,
        gpu_error=error,
    )


def write_storage(storage: str, prefix: str, mark: str) -> StorageFacts:
    """Leaves this node's mark in the storage, and tells how fast it writes and reads there."""
    data = os.urandom(PROBE_BYTES)
    try:
        backend = open_backend(parse_uri(storage))
        backend.write_bytes(f"{prefix}/marks/{mark}", b"")
        abilities = probe(backend)
        started = time.perf_counter()
        backend.write_bytes(f"{prefix}/data/{mark}", data)
        written = time.perf_counter()
        same = backend.read_bytes(f"{prefix}/data/{mark}") == data
        read = time.perf_counter()
    except (OSError, RaysmithError) as error:
        return StorageFacts(error=str(error))
    if not same:
        return StorageFacts(error="what was written is not what was read")
    return StorageFacts(
        write_bytes_per_s=PROBE_BYTES / (written - started),
        read_bytes_per_s=PROBE_BYTES / (read - written),
        abilities=abilities,
    )


def marks_seen(storage: str, prefix: str) -> tuple[str, ...]:
    """The marks in the storage that this node sees."""
    return _marks(open_backend(parse_uri(storage)), prefix)


def mark_copies(storage: str, prefix: str) -> None:
    """Leaves a mark of this node's beside the working copies of runs in the storage."""
    _beside_copies(storage).write_bytes(f"{prefix}/marks/{secrets.token_hex(8)}", b"")


def copies_marks(storage: str, prefix: str) -> tuple[str, ...]:
    """The marks beside the working copies that this node sees."""
    return _marks(_beside_copies(storage), prefix)


def remove_copies_marks(storage: str, prefix: str) -> None:
    """Removes all marks that this node sees beside the working copies."""
    _beside_copies(storage).delete_prefix(f"{prefix}/")


def _beside_copies(storage: str) -> LocalBackend:
    return LocalBackend(copy_of(parse_uri(storage)).parent)


def _marks(backend: Backend, prefix: str) -> tuple[str, ...]:
    return tuple(Path(entry.key).name for entry in backend.list(f"{prefix}/marks/"))


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in ENGINES:
        for distribution in (name, f"{name}-cpu"):
            try:
                found.append((name, version(distribution).partition("+")[0]))
                break
            except PackageNotFoundError:
                continue
    return found


def _size(folder: str) -> int:
    try:
        return shutil.disk_usage(folder).total
    except OSError:
        return 0


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    command = ["nvidia-smi", f"--query-gpu={_GPU_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_GPU_TIMEOUT_S
        )
        return tuple(_gpu(line) for line in done.stdout.splitlines() if line.strip()), None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return (), f"nvidia-smi: {error}"


def _gpu(line: str) -> Gpu:
    index, name, total, used, temperature, errors = (part.strip() for part in line.split(","))
    return Gpu(int(index), name, int(total), int(used), _whole(temperature), _whole(errors))


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None
