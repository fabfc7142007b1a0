"""`raysmith gc`: what goes from a storage, and what never does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import storage.working_copy
from jobs.cli import cli
from jobs.collection import Rules, find_garbage
from jobs.observed import utc_now
from jobs.record import Record, StageStatus
from jobs.state import RunState, StageState
from storage.commit import begin, commit
from storage.committed import read_committed
from storage.durable import TEMP_PREFIX
from storage.layout import Layout
from storage.manifest import Owner
from storage.uri import StorageUri
from storage.working_copy import copy_of, place_of

DAY_S = 86400.0


@pytest.fixture(params=["disk", "store"])
def layout(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Layout]:
    """A storage root on a disk, and the working copy of one in a store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    storage.working_copy.opened.cache_clear()
    on_disk = request.param == "disk"
    yield Layout(tmp_path / "root" if on_disk else copy_of(StorageUri("memory", "shared")))
    storage.working_copy.opened.cache_clear()


def make(layout: Layout, run_id: str, name: str = "bot") -> Record:
    return Record.create(
        layout.run(name, run_id), run_id=run_id, name=name, plan_json="{}", spec_text="", lock={},
        stages=(StageStatus(name="sft", kind="sft"),), digest="d",
    )  # fmt: skip


def write(folder: Path, run_id: str, *, done: bool) -> Path:
    owner = Owner(run_id=run_id, stage="sft", key=f"key-{run_id}", attempt=1)
    begin(folder, owner)
    (folder / "weights").write_bytes(b"x" * 1000)
    if done:
        commit(folder, owner, {"step": 1})
    return folder


def ended(layout: Layout, run_id: str, name: str = "bot", *, takes: Path | None = None) -> Record:
    """A run that left an artifact, or took one."""
    record = make(layout, run_id, name)
    if takes:
        record.move("sft", StageState.CACHED, artifact=str(takes))
    else:
        artifact = write(record.layout.artifact("sft"), run_id, done=True)
        record.move("sft", StageState.RUNNING, attempt=1, key=f"key-{run_id}")
        record.move("sft", StageState.SUCCEEDED, artifact=str(artifact))
    record.finish(RunState.SUCCEEDED)
    return record


def collect(layout: Layout, rules: Rules, days: float = 0) -> list[str]:
    """Removes what may go so many days from now, and tells what it was."""
    found = find_garbage(layout, rules, now=lambda: utc_now() + timedelta(days=days))
    for each in found.garbage:
        each.remove()
    assert not find_garbage(layout, rules, now=lambda: utc_now() + timedelta(days=days)).garbage
    return [*found.stay, *[each.what for each in found.garbage]]


def test_what_was_never_finished_goes_and_what_is_committed_stays(layout: Layout) -> None:
    record = ended(layout, "run-1")
    stage = record.layout.stage("sft")
    kept = write(stage.checkpoint(1), "run-1", done=True)
    torn = write(stage.checkpoint(2), "run-1", done=False)
    foreign = write(stage.checkpoint(3), "another-run", done=False)
    nobodys = stage.checkpoint(4)
    nobodys.mkdir()
    (nobodys / "mine").touch()
    stage.scratch.mkdir()
    assert collect(layout, Rules()) == [
        "bot/run-1: stages/sft/checkpoint-2, which was never finished",
        "bot/run-1: stages/sft/scratch, which was never finished",
    ]
    assert read_committed(kept)
    assert read_committed(record.layout.artifact("sft"))
    assert not torn.exists()
    assert foreign.exists()
    assert (nobodys / "mine").exists()


def test_nothing_of_a_run_at_work_goes(layout: Layout) -> None:
    record = make(layout, "run-1")
    torn = write(record.layout.stage("sft").checkpoint(2), "run-1", done=False)
    assert collect(layout, Rules(older_than_s=DAY_S, keep_last=1)) == []
    record.finish(RunState.STOPPED)
    found = find_garbage(layout, Rules())
    Record.open(record.layout).resume()
    with pytest.raises(Exception, match="has come to work"):
        found.garbage[0].remove()
    assert torn.exists()


def test_runs_go_by_age_and_number_and_a_rule_alone_suffices_to_keep_one(layout: Layout) -> None:
    for number in range(4):
        ended(layout, f"run-{number}")
    ended(layout, "run-9", "other")
    assert collect(layout, Rules(older_than_s=DAY_S)) == []
    assert collect(layout, Rules(older_than_s=3 * DAY_S, keep_last=3), days=2) == []
    (gone,) = collect(layout, Rules(older_than_s=DAY_S, keep_last=3), days=2)
    assert gone.startswith("run bot/run-0 (succeeded, ")
    assert len(collect(layout, Rules(keep_last=1, name="other"))) == 0
    assert len(collect(layout, Rules(keep_last=1))) == 2
    assert len(collect(layout, Rules(older_than_s=DAY_S, name="bot"), days=2)) == 1
    assert layout.run("other", "run-9").status.exists()


def test_a_run_stays_whose_artifact_another_takes_that_stays(layout: Layout) -> None:
    source = ended(layout, "run-1")
    taker = ended(layout, "run-2", takes=source.layout.artifact("sft"))
    said = collect(layout, Rules(keep_last=1))
    assert said == ["bot/run-1 stays: stage sft of bot/run-2 took its artifact from it"]
    assert read_committed(source.layout.artifact("sft"))
    assert len(collect(layout, Rules(older_than_s=DAY_S), days=2)) == 2
    assert not taker.layout.folder.exists()


def test_a_removal_that_was_cut_off_is_ended(layout: Layout) -> None:
    run = layout.run("bot", "20250102-030405-abcdef")
    write(run.artifact("sft"), run.folder.name, done=True)
    mine = layout.root / "bot" / "notes"
    mine.mkdir()
    new = layout.run("bot", f"{utc_now():%Y%m%d-%H%M%S}-abcdef")
    write(new.artifact("sft"), new.folder.name, done=True)
    assert collect(layout, Rules()) == ["what is left of run bot/20250102-030405-abcdef"]
    assert not run.folder.exists()
    assert mine.exists()
    assert read_committed(new.artifact("sft"))


def test_a_copy_goes_and_comes_back(layout: Layout) -> None:
    record = ended(layout, "run-1")
    if not place_of(layout.root):
        assert collect(layout, Rules(copies=True)) == []
        return
    assert collect(layout, Rules(copies=True)) == ["the copy of bot/run-1 on this machine"]
    assert not record.layout.artifact("sft").exists()
    assert read_committed(record.layout.artifact("sft"))


def test_a_copy_stays_that_a_run_at_work_takes(layout: Layout) -> None:
    record = ended(layout, "run-1")
    user = make(layout, "run-2")
    user.move("sft", StageState.CACHED, artifact=str(record.layout.artifact("sft")))
    assert collect(layout, Rules(copies=True, name="bot")) == []


def test_the_command_says_first_what_it_would_do(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    for number in range(2):
        ended(layout, f"run-{number}")
    lost = layout.root / f"{TEMP_PREFIX}lost"
    lost.touch()
    os.utime(lost, times=(time.time() - 2 * DAY_S,) * 2)

    def gc(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["gc", *words, "--storage", str(layout.root)])
        assert done.exit_code == code, done.output
        return done.output

    dry = gc("--keep-last", "1", "--dry-run")
    assert "would remove run bot/run-0 (succeeded" in dry
    assert "would be free" in dry
    assert layout.run("bot", "run-0").status.exists()
    said = gc("--keep-last", "1")
    assert said.startswith("removed run bot/run-0 (succeeded")
    assert f"ended the upload of {lost.name}" in said
    assert not layout.run("bot", "run-0").folder.exists()
    assert gc("--keep-last", "1") == "nothing to remove\n"
    assert gc("--reindex").startswith("the index has 1 runs\n")
    assert "'soon' is not a duration" in gc("--older-than", "soon", code=2)
