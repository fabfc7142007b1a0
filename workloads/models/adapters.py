"""What belongs to an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage.commit import read_committed
from workloads.models.resolve import ModelSource, adapter_base, resolve_model


def base_model(adapter: Path, base_folders: Sequence[str]) -> ModelSource:
    """The model that an adapter was trained on: as its run recorded it, or as it names it itself.

    Raises:
        UserError: if it names none, or one that isn't there.
    """
    manifest = read_committed(adapter)
    recorded = str(manifest.meta.get("base", "")) if manifest else ""
    is_there = bool(recorded) and Path(recorded).is_dir()
    name = recorded if is_there else adapter_base(adapter)
    return resolve_model(name, base_folders)
