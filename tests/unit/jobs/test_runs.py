"""How runs and artifacts are found: by the index, which is never taken for the truth."""

import shutil
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.record import Record, StageStatus
from jobs.runs import (
    Next,
    actions,
    entries,
    find_artifact,
    find_run,
    recorded_runs,
    reindex,
    resolve_run,
    run_and_stage,
)
from jobs.state import RunState, StageState
from storage.commit import begin, commit
from storage.index import FOLDER, Index
from storage.layout import Layout
from storage.manifest import Owner
from tests.unit.jobs.clock import Clock


def make(
    layout: Layout, clock: Clock, run_id: str = "run-1", name: str = "bot", digest: str = "d1"
) -> Record:
    return Record.create(
        layout.run(name, run_id), run_id=run_id, name=name, plan_json="{}", spec_text="version: 1",
        lock={}, stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="x")),
        digest=digest, now=clock,
    )  # fmt: skip


def test_find_run_matches_name_and_digest(layout: Layout, clock: Clock) -> None:
    make(layout, clock, "run-1")
    make(layout, clock, "run-2", digest="d2")
    make(layout, clock, "run-3", name="other")
    found = find_run(layout, "bot", "d1")
    assert found is not None
    assert found.run_id == "run-1"
    assert find_run(layout, "bot", "d3") is None
    assert find_run(layout, "nobody", "d1") is None


def test_find_artifact_wants_success_the_key_and_a_commit(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    folder = record.layout.artifact("sft")
    owner = Owner(run_id="run-1", stage="sft", key="k", attempt=1)
    begin(folder, owner)
    (folder / "weights").write_bytes(b"1234")
    record.move("sft", StageState.RUNNING, attempt=1, key="k")
    record.move("sft", StageState.SUCCEEDED, artifact=str(folder))
    assert find_artifact(layout, "k") is None
    commit(folder, owner, {})
    assert find_artifact(layout, "k") == folder
    assert find_artifact(layout, "other") is None
    (folder / "weights").write_bytes(b"12")
    assert find_artifact(layout, "k") is None


def test_resolve_run_takes_every_way_of_naming_one(
    layout: Layout, clock: Clock, tmp_path: Path
) -> None:
    old = make(layout, clock, "run-1")
    clock.advance(60)
    new = make(layout, clock, "run-2")
    other = make(layout, clock, "run-3", name="other")
    assert resolve_run(layout, "bot") == new.layout
    assert resolve_run(layout, "run-1") == resolve_run(layout, "bot/run-1") == old.layout
    assert resolve_run(layout, str(tmp_path / "bot" / "run-1")) == old.layout
    clock.advance(60)
    other.finish(RunState.FAILED)
    assert resolve_run(layout) == other.layout
    with pytest.raises(UserError, match="bot/run-2"):
        resolve_run(layout, "bott")
    with pytest.raises(UserError, match="raysmith run SPEC"):
        resolve_run(Layout(tmp_path / "nothing"))


def test_a_stage_alone_means_the_newest_run_that_has_it(layout: Layout, clock: Clock) -> None:
    old = make(layout, clock, "run-1")
    clock.advance(1)
    new = make(layout, clock, "run-2", name="merge")
    assert run_and_stage(layout, "sft") == (new.layout, "sft")
    assert run_and_stage(layout, "bot", "sft") == (old.layout, "sft")
    assert run_and_stage(layout, "") == (new.layout, None)
    # A run's name comes before a stage's.
    assert run_and_stage(layout, "merge") == (new.layout, None)
    with pytest.raises(UserError, match="no run 'sft' in"):
        run_and_stage(layout, "sft", "merge")
    with pytest.raises(
        UserError, match=r"(?s)a stage, called 'sfd'.*merge/run-2, bot/run-1; .*: sft, merge$"
    ):
        run_and_stage(layout, "sfd")


def states(layout: Layout) -> list[tuple[str, str]]:
    return [(entry.run_id, entry.state) for entry in entries(layout)]


def test_the_index_follows_a_runs_state(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    clock.advance(1)
    make(layout, clock, "run-2")
    assert states(layout) == [("run-2", "running"), ("run-1", "running")]
    clock.advance(1)
    record.finish(RunState.FAILED)
    assert states(layout) == [("run-1", "failed"), ("run-2", "running")]
    clock.advance(1)
    Record.open(record.layout, now=clock).resume()
    assert states(layout) == [("run-1", "running"), ("run-2", "running")]
    assert len(list((layout.root / FOLDER / "runs").iterdir())) == 2


def test_a_driver_that_was_killed_between_two_entries_leaves_the_newest_to_count(
    layout: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make(layout, clock)
    clock.advance(1)
    monkeypatch.setattr(Index, "remove", lambda *_: None)
    record.finish(RunState.SUCCEEDED)
    assert len(list((layout.root / FOLDER / "runs").iterdir())) == 2
    assert states(layout) == [("run-1", "succeeded")]


def test_runs_that_were_removed_by_hand_are_passed_over(layout: Layout, clock: Clock) -> None:
    first, second = make(layout, clock), make(layout, clock, "run-2")
    shutil.rmtree(second.layout.folder)
    assert resolve_run(layout, "bot") == first.layout
    assert [run.folder.name for run, _ in recorded_runs(layout, "bot")] == ["run-1"]
    assert [entry.run_id for entry in reindex(layout)] == ["run-1"]


def test_a_storage_without_an_index_gets_one(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    folder = record.layout.artifact("sft")
    owner = Owner(run_id="run-1", stage="sft", key="k", attempt=1)
    begin(folder, owner)
    commit(folder, owner, {})
    record.move("sft", StageState.RUNNING, attempt=1, key="k")
    record.move("sft", StageState.SUCCEEDED, artifact=str(folder))
    shutil.rmtree(layout.root / FOLDER)
    assert find_artifact(layout, "k") == folder
    assert states(layout) == [("run-1", "running")]


def test_an_artifact_serves_runs_of_any_name(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock, name="other")
    folder = record.layout.artifact("sft")
    owner = Owner(run_id="run-1", stage="sft", key="k1", attempt=1)
    begin(folder, owner)
    commit(folder, owner, {})
    record.move("sft", StageState.RUNNING, attempt=1, key="k1")
    record.move("sft", StageState.SUCCEEDED, artifact=str(folder))
    mine = make(layout, clock, "run-2", digest="d2")
    mine.move("merge", StageState.RUNNING, attempt=1, key="k2")
    keys = {"sft": "k1", "merge": "k2", "merge-again": "k2"}
    said = actions(layout, "bot", "d2", keys)
    assert said == {
        "sft": Next("cached", "other/run-1"),
        "merge": Next("resume", "bot/run-2"),
        "merge-again": Next("run"),
    }
    texts = ["cached from other/run-1", "resume of bot/run-2", "run"]
    assert [str(each) for each in said.values()] == texts


def test_a_resume_tells_the_newest_committed_step(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    record.move("sft", StageState.RUNNING, attempt=1, key="k")
    stage, owner = record.layout.stage("sft"), Owner("run-1", "sft", "k", 1)
    for step in (20, 40, 60):
        begin(stage.checkpoint(step), owner)
        if step < 60:
            commit(stage.checkpoint(step), owner, {"step": step})
    (said,) = actions(layout, "bot", "d1", {"sft": "k"}).values()
    assert said == Next("resume", "bot/run-1", 40)
    assert str(said) == "resume from step 40 of bot/run-1"
