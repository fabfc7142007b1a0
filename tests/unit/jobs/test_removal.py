"""Removing runs: what goes, and what never does."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import cli
from jobs.errors import UserError
from jobs.record import Record, StageStatus
from jobs.removal import removable, remove
from jobs.runs import entries, find_artifact
from jobs.state import RunState, StageState
from storage.commit import begin, commit
from storage.layout import Layout
from storage.manifest import Owner


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "root")


def make(layout: Layout, run_id: str) -> Record:
    return Record.create(
        layout.run("bot", run_id), run_id=run_id, name="bot", plan_json="{}", spec_text="", lock={},
        stages=(StageStatus(name="sft", kind="sft"),), digest="d",
    )  # fmt: skip


def trained(layout: Layout, run_id: str = "run-1") -> Record:
    record = make(layout, run_id)
    folder = record.layout.artifact("sft")
    owner = Owner(run_id=run_id, stage="sft", key="k", attempt=1)
    begin(folder, owner)
    commit(folder, owner, {})
    record.move("sft", StageState.RUNNING, attempt=1, key="k")
    record.move("sft", StageState.SUCCEEDED, artifact=str(folder))
    record.finish(RunState.SUCCEEDED)
    return record


def cached(layout: Layout, source: Record) -> Record:
    record = make(layout, "run-2")
    artifact = str(source.layout.artifact("sft"))
    record.move("sft", StageState.CACHED, key="k", artifact=artifact)
    record.finish(RunState.SUCCEEDED)
    return record


def rm(layout: Layout, *words: str, answer: str = "") -> Result:
    return CliRunner().invoke(cli, ["rm", *words, "--storage", str(layout.root)], input=answer)


def test_a_removed_run_is_gone_from_the_index_too(layout: Layout) -> None:
    trained(layout)
    other = trained(layout, "run-2")
    remove(layout, *removable(layout, ["run-1"]))
    assert [entry.run_id for entry in entries(layout)] == ["run-2"]
    assert find_artifact(layout, "k") == other.layout.artifact("sft")
    assert [folder.name for folder in (layout.root / "bot").iterdir()] == ["run-2"]


def test_a_run_at_work_stays(layout: Layout) -> None:
    trained(layout)
    record = make(layout, "run-2")
    with pytest.raises(UserError, match="bot/run-2 is at work"):
        removable(layout, ["run-1", "run-2"])
    doomed = removable(layout, ["run-1"])[0]
    Record.open(doomed.layout).resume()
    with pytest.raises(UserError, match="bot/run-1 is at work"):
        remove(layout, doomed)
    assert record.layout.status.is_file()
    assert doomed.layout.status.is_file()


def test_what_another_run_took_stays_until_that_one_goes_too(layout: Layout) -> None:
    source = trained(layout)
    cached(layout, source)
    with pytest.raises(UserError, match="stage sft of bot/run-2 took its artifact"):
        removable(layout, ["run-1"])
    assert [str(run) for run in removable(layout, ["run-2"])] == ["bot/run-2"]
    assert len(removable(layout, ["run-1", "bot/run-2", "run-1"])) == 2


def test_a_link_inside_is_removed_and_not_what_it_leads_to(layout: Layout, tmp_path: Path) -> None:
    record = trained(layout)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (record.layout.folder / "link").symlink_to(tmp_path / "mine")
    remove(layout, *removable(layout, [str(record.layout.folder)]))
    assert not record.layout.folder.exists()
    assert (tmp_path / "mine" / "file").exists()


def test_a_name_alone_and_a_run_of_another_storage_are_refused(
    layout: Layout, tmp_path: Path
) -> None:
    record = trained(layout)
    with pytest.raises(UserError, match="'bot' is the name of runs"):
        removable(layout, ["bot"])
    with pytest.raises(UserError, match="is not a run of the storage"):
        removable(Layout(tmp_path / "other"), [str(record.layout.folder)])


def test_the_command_asks_first(layout: Layout) -> None:
    record = trained(layout)
    assert rm(layout, "run-1", answer="n\n").exit_code == 1
    assert record.layout.status.is_file()
    assert rm(layout, "run-1", "-y").output == "removed bot/run-1\n"
    assert not record.layout.folder.exists()
