"""The shape of a model, from its configuration and the headers of its weights alone."""

from __future__ import annotations

import json
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from jobs.plan.memory import ModelShape
from workloads.models.local import cache_folder
from workloads.models.resolve import BUNDLED, ModelSource

_MOST_HEADER_BYTES = 100_000_000


def shape_of(source: ModelSource) -> ModelShape | None:
    """The shape of a model; None where it is not on this machine, or is no plain decoder."""
    folder = _folder(source)
    try:
        config = json.loads((folder / "config.json").read_bytes()) if folder else None
        if not folder or not isinstance(config, dict):
            return None
        heads = int(config["num_attention_heads"])
        return ModelShape(
            parameters=_parameters(folder),
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            intermediate=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder(source: ModelSource) -> Path | None:
    if source.kind == "folder":
        return Path(source.name)
    if source.kind == "bundled":
        return cache_folder() / f"{source.name}-{version(BUNDLED[source.name].distribution)}"
    return None


def _parameters(folder: Path) -> int:
    """How many numbers the weights' files hold. Raises ValueError where there are none."""
    found = sum(_numbers(path) for path in sorted(folder.glob("*.safetensors")))
    if not found:
        raise ValueError(f"{folder} holds no weights")
    return found


def _numbers(path: Path) -> int:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError(f"{path} is no safetensors file")
        header: dict[str, Any] = json.loads(stream.read(length))
    return sum(prod(part["shape"]) for name, part in header.items() if name != "__metadata__")
