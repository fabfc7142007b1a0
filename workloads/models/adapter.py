"""Adapters: the model that one belongs to, and whether an engine can take it as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UserError
from storage.committed import fetch, read_committed
from storage.working_copy import here
from workloads.engine import MAX_LORA_RANK
from workloads.models.resolve import (
    ADAPTER_CONFIG,
    ModelSource,
    adapter_base,
    read_json,
    resolve_model,
)

_MERGE = "merge it first: {kind: merge, model: ...}"


def base_model(adapter: Path, base_folders: Sequence[str]) -> ModelSource:
    """The model that an adapter was trained on: what its stage recorded, else what it names.

    Raises:
        UserError: if it names none, or one that can't be found.
    """
    manifest = read_committed(adapter)
    meta = manifest.meta if manifest else {}
    if recorded := meta.get("base"):
        folder = here(Path(str(recorded)))
        if fetch(folder) or folder.is_dir():
            return resolve_model(str(folder), base_folders)
    # The folder was one of another machine's.
    return resolve_model(str(meta.get("base_name") or adapter_base(adapter)), base_folders)


def check_adapter(adapter: Path) -> None:
    """Sees that vLLM engines take an adapter beside its base model.

    Raises:
        UserError: if they don't, because of its kind, its rank or its layers.
    """
    if (rank := lora_rank(adapter)) > MAX_LORA_RANK:
        raise UserError(
            f"the adapter in {str(adapter)!r} is of rank {rank}, and {MAX_LORA_RANK} is the most",
            _MERGE,
        )
    lora_layers(adapter)


def lora_rank(adapter: Path) -> int:
    """The rank of an adapter that a vLLM engine can take beside its base model.

    Raises:
        UserError: if it is of a kind that engines don't take.
    """
    config = read_json(adapter / ADAPTER_CONFIG)
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        raise UserError(f"the adapter in {str(adapter)!r} is of type {kind}, not LORA", _MERGE)
    for field in ("use_dora", "modules_to_save"):
        if config.get(field):
            reason = f"the adapter in {str(adapter)!r} has {field}, which vLLM does not take"
            raise UserError(reason, _MERGE)
    ranks = [config.get("r", 8), *config.get("rank_pattern", {}).values()]
    return max(int(rank) for rank in ranks)


def lora_layers(adapter: Path) -> tuple[str, ...]:
    """The last names of the layers that an adapter changes, such as `q_proj`.

    Raises:
        UserError: if it changes one that engines take no adapter for.
    """
    names = [name for file in sorted(adapter.glob("*.safetensors")) for name in _tensors(file)]
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name}
    # vLLM can't tell the log-probabilities of prompts where the output layer has an adapter.
    if beyond := sorted(layers & {"lm_head", "embed_tokens"}):
        raise UserError(
            f"the adapter in {str(adapter)!r} changes {', '.join(beyond)}, which is for merging",
            _MERGE,
        )
    return tuple(sorted(layers))


def _tensors(file: Path) -> list[str]:
    """The names in a safetensors file's header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return [name for name in header if name != "__metadata__"]
