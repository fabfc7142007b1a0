"""An export stage: what it leaves, and what is done again after a push that failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.load.loader import load
from jobs.observed import StageStatus
from jobs.plan.resolve import resolve
from jobs.record import Record
from storage.committed import read_committed
from storage.layout import Layout
from storage.manifest import Manifest, Owner
from workloads.context import StageContext
from workloads.export import run as stage
from workloads.export.push import DESTINATIONS

pytestmark = [
    # Raised inside the libraries.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RUN_ID = "20260101-000000-abc"
DOWN = [True]


def unsteady(_folder: Path, manifest: Manifest, spec: Any, message: str) -> dict[str, Any]:
    """A destination that can't be reached the first time."""
    if DOWN.pop():
        DOWN.append(False)
        raise ConnectionError("down")
    return {"url": spec.to, "sent": len(manifest.files), "replaced": 0, "unchanged": 0}


@dataclass
class Heard:
    """What the stage told."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class OneCore:
    """A machine of one core."""

    own_address = "127.0.0.1"

    def connect(self) -> None:
        """Does nothing."""

    def cpus_per_worker(self, workers: int) -> int:
        """One."""
        return workers


def context(folder: Path, attempt: int, heard: Heard) -> StageContext:
    """An attempt at the only stage of a job."""
    loaded = load(folder / "job.yaml", (), {})
    plan = resolve(loaded, str(folder / "runs"))
    run = Layout(folder / "runs").run("job", RUN_ID)
    if not run.folder.exists():
        Record.create(
            run, run_id=RUN_ID, name="job", plan_json=plan.to_json(), spec_text=loaded.text,
            lock={"versions": {}}, stages=(StageStatus(name="export", kind="export"),), digest="d",
        )  # fmt: skip
    layout = run.stage("export")
    layout.attempt(attempt).folder.mkdir(parents=True)

    def event(kind: str, **fields: Any) -> None:
        heard.events.append((kind, fields))

    return StageContext(
        stage=plan.stage("export"),
        seed=1,
        base_folders=(str(folder),),
        owner=Owner(RUN_ID, "export", "key", attempt),
        layout=layout,
        attempt=layout.attempt(attempt),
        artifact=run.artifact("export"),
        inputs={},
        cluster=OneCore(),
        event=event,
        note=heard.notes.append,
    )


def test_a_push_that_fails_is_all_that_is_done_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(_context: StageContext, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(stage, "_on_a_worker", here)
    monkeypatch.setitem(DESTINATIONS, "s3", f"{__name__}:unsteady")
    (tmp_path / "job.yaml").write_text(
        "version: 1\nname: job\nstages:\n"
        f"  export: {{kind: export, model: {tiny_model}, quantize: {{method: int8}}, "
        "push: {to: s3://bucket/x}}\n"
    )
    heard = Heard()
    first = context(tmp_path, 1, heard)
    with pytest.raises(ConnectionError, match="down"):
        stage.run(first)
    made = read_committed(first.artifact, verify="digests")
    assert made
    names = {file.name for file in made.files}
    assert {"README.md", "config.json", "export.json", "model.safetensors"} <= names
    assert not first.layout.scratch.exists()
    assert heard.events == []

    result = stage.run(context(tmp_path, 2, heard))
    assert result.finished
    assert set(result.timings) == {"push"}
    assert read_committed(first.artifact) == made
    ((kind, fields),) = heard.events
    assert (kind, fields["to"], fields["sent"]) == ("pushed", "s3://bucket/x", len(names))
    assert heard.notes[-1] == f"pushed to s3://bucket/x: {len(names)} files sent, 0 unchanged"
    card = (first.artifact / "README.md").read_text()
    assert "int8" in card
    assert str(tmp_path) not in card
