"""Runs are removed whole, and never under another one's feet."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import cli
from jobs.errors import UserError
from jobs.record import Record, StageStatus
from jobs.removal import check_removable, remove
from jobs.runs import entries, find_artifact
from jobs.state import RunState, StageState
from storage.commit import begin, commit
from storage.layout import Layout
from storage.manifest import Owner


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "runs")


def make(layout: Layout, run_id: str, *, artifact: Path | None = None) -> Record:
    """A run that made an artifact, or took the one that is given."""
    record = Record.create(
        layout.run("bot", run_id), run_id=run_id, name="bot", plan_json="{}", spec_text="",
        lock={}, stages=(StageStatus(name="sft", kind="sft"),), digest=run_id,
        now=lambda: datetime.now(UTC),
    )  # fmt: skip
    if artifact:
        record.move("sft", StageState.CACHED, key="k", artifact=str(artifact))
    else:
        folder = record.layout.artifact("sft")
        owner = Owner(run_id=run_id, stage="sft", key="k", attempt=1)
        begin(folder, owner)
        (folder / "weights").write_bytes(b"1234")
        commit(folder, owner, {})
        record.move("sft", StageState.RUNNING, attempt=1, key="k")
        record.move("sft", StageState.SUCCEEDED, artifact=str(folder))
    record.finish(RunState.SUCCEEDED)
    return record


def test_a_run_is_removed_with_all_that_it_left(layout: Layout) -> None:
    first, second = make(layout, "run-1").layout, make(layout, "run-2").layout
    check_removable(first)
    remove(first)
    assert not first.folder.exists()
    assert [entry.run_id for entry in entries(layout)] == ["run-2"]
    assert find_artifact(layout, "k") == second.artifact("sft")


def test_a_run_at_work_stays(layout: Layout) -> None:
    record = make(layout, "run-1")
    record.resume()
    with pytest.raises(UserError, match="raysmith stop run-1"):
        check_removable(record.layout)


def test_a_run_whose_artifact_is_used_stays_with_its_user(layout: Layout) -> None:
    first = make(layout, "run-1").layout
    second = make(layout, "run-2", artifact=first.artifact("sft")).layout
    with pytest.raises(UserError, match=r"use: bot/run-2 \(sft\)"):
        check_removable(first)
    check_removable(first, frozenset({first, second}))
    remove(second)
    check_removable(first)


def test_the_command_asks_first_and_lists_what_is_left(layout: Layout) -> None:
    for run_id in ("run-1", "run-2"):
        make(layout, run_id)
    storage = ["--storage", str(layout.root)]
    refused = CliRunner().invoke(cli, ["rm", "run-1", *storage], input="n\n")
    assert refused.exit_code == 1
    assert len(entries(layout)) == 2
    done = CliRunner().invoke(cli, ["rm", "run-1", "-y", *storage])
    assert done.output == "bot/run-1: removed\n"
    listed = CliRunner().invoke(cli, ["list", *storage])
    assert "bot/run-2  succeeded" in listed.output
    assert "run-1" not in listed.output
    told = CliRunner().invoke(cli, ["events", "run-2", *storage])
    assert told.output.splitlines()[0].endswith("run_created  run id run-2")
    assert told.output.splitlines()[-1].endswith("succeeded")
