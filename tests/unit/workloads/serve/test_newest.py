"""A service that is part of no run finds what the newest run in order left."""

import os
import shutil
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.record import Record, StageStatus
from jobs.state import StageState
from storage.commit import begin, commit
from storage.layout import Layout
from storage.manifest import Owner
from workloads.serve.newest import newest_artifacts

SUCCEEDED, FAILED, RUNNING = StageState.SUCCEEDED, StageState.FAILED, StageState.RUNNING


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "runs")


def leave(layout: Layout, run_id: str, **states: StageState) -> Record:
    """A run that is newer than those before, whose stages stand so."""
    run = layout.run("bot", run_id)
    born = len(layout.runs("bot"))
    record = Record.create(
        run, run_id=run_id, name="bot", plan_json="{}", spec_text="", lock={}, digest=run_id,
        stages=tuple(StageStatus(name=name, kind="sft") for name in states),
    )  # fmt: skip
    os.utime(run.spec, ns=(born, born))
    for name, state in states.items():
        folder = run.artifact(name)
        record.move(name, RUNNING, attempt=1)
        if state is SUCCEEDED:
            owner = Owner(run_id=run_id, stage=name, key="k", attempt=1)
            begin(folder, owner)
            (folder / "weights").write_bytes(b"1234")
            commit(folder, owner, {})
        if state is not RUNNING:
            record.move(name, state, artifact=str(folder) if state is SUCCEEDED else None)
    return record


def test_the_newest_run_whose_stages_all_ended_well_counts(layout: Layout) -> None:
    leave(layout, "a", sft=SUCCEEDED, check=SUCCEEDED)
    leave(layout, "b", sft=SUCCEEDED, check=FAILED)
    leave(layout, "c", sft=RUNNING)
    a, b = (layout.run("bot", name).artifact("sft") for name in "ab")
    assert newest_artifacts(layout, "bot", ["sft"])["sft"] == b
    # A model that failed its measure is not served.
    assert newest_artifacts(layout, "bot", ["sft", "check"])["sft"] == a
    assert newest_artifacts(layout, "bot", ["sft"], "a")["sft"] == a


def test_a_torn_artifact_is_passed_over(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    leave(layout, "a", sft=SUCCEEDED)
    leave(layout, "b", sft=SUCCEEDED)
    (layout.run("bot", "b").artifact("sft") / "weights").write_bytes(b"12")
    found = newest_artifacts(layout, "bot", ["sft"])
    assert found == {"sft": layout.run("bot", "a").artifact("sft")}
    assert "in newer runs not all" in caplog.text


def test_a_cached_artifact_is_found_where_the_storage_is_mounted_now(layout: Layout) -> None:
    leave(layout, "a", sft=SUCCEEDED)
    cached = leave(layout, "b", sft=FAILED)
    cached.move("sft", StageState.PENDING)
    cached.move("sft", StageState.CACHED, artifact=str(layout.run("bot", "a").artifact("sft")))
    moved = layout.root.parent / "mounted"
    shutil.move(layout.root, moved)
    found = newest_artifacts(Layout(moved), "bot", ["sft"], "b")
    assert found == {"sft": moved / "bot" / "a" / "artifacts" / "sft"}


def test_what_is_missing_is_told(layout: Layout) -> None:
    with pytest.raises(UserError, match=r"there is no run of .* the jobs there: none"):
        newest_artifacts(layout, "bot", ["sft"])
    leave(layout, "a", sft=SUCCEEDED, check=FAILED)
    with pytest.raises(UserError, match="the newest, a, stands so: sft succeeded, check failed"):
        newest_artifacts(layout, "bot", ["sft", "check"])
    with pytest.raises(UserError, match="no run 'z' of the job 'bot'"):
        newest_artifacts(layout, "bot", ["sft"], "z")
