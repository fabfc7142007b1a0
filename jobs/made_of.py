"""What an artifact is made of, to be committed with it: its inputs, the code, the libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.fingerprint import fingerprint
from jobs.load.tree import split_dotted, value_at
from jobs.plan.resolve import StagePlan
from storage.committed import read_committed
from storage.layout import run_of
from storage.manifest import JSON
from workloads.check import Checked


def made_of(stage: StagePlan, taken: Mapping[str, Path], checked: Checked) -> dict[str, JSON]:
    """What a stage works on.

    Args:
        stage: as planned.
        taken: the folders of other stages' artifacts that it takes, by field.
        checked: with the digests of what it takes from outside, and the versions of libraries.
    """
    return {
        "inputs": [*_artifacts(taken), *_given(stage, checked.digests.get(stage.name, {}))],
        "code": fingerprint(),
        "versions": dict(checked.versions),
    }


def _artifacts(taken: Mapping[str, Path]) -> Iterator[dict[str, JSON]]:
    for field, folder in taken.items():
        entry = {"name": field, "run": run_of(folder).full_name, "stage": folder.name}
        manifest = read_committed(folder)
        known = {"key": manifest.owner.key, "digest": manifest.digest} if manifest else {}
        yield {**entry, **known}


def _given(stage: StagePlan, digests: Mapping[str, str]) -> Iterator[dict[str, JSON]]:
    fields: dict[str, Any] = stage.spec.model_dump(mode="json")
    for field, digest in digests.items():
        written = value_at(fields, split_dotted(field, fields))
        source = written.get("path") if isinstance(written, dict) else written
        known = {"source": source} if isinstance(source, str) else {}
        yield {"name": field, **known, "digest": digest}
