"""The list of runs: what is shown, in which order, and what is read for it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.observed import RunStatus, read_status
from jobs.record import Record, StageStatus
from jobs.state import FailureClass, RunState, StageState
from jobs.view.listing import listing
from storage.layout import Layout, RunLayout

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def make(layout: Layout, number: int, name: str = "bot") -> Record:
    """A run that began so many minutes after the first."""
    return Record.create(
        layout.run(name, f"run-{number}"), run_id=f"run-{number}", name=name, plan_json="{}",
        spec_text="", lock={}, digest="d", now=lambda: NOW + timedelta(minutes=number),
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
    )  # fmt: skip


def lines(layout: Layout, **options: object) -> list[str]:
    asked = {"name": None, "states": (), "limit": 20, "as_json": False} | options
    now = NOW + timedelta(minutes=90)
    return listing(layout, now=lambda: now, **asked).splitlines()  # type: ignore[arg-type]


def test_runs_are_listed_newest_first_with_their_reason(layout: Layout) -> None:
    make(layout, 1).finish(RunState.SUCCEEDED)
    failed = make(layout, 2)
    reason = FailureClass.USER_ERROR
    failed.move("sft", StageState.FAILED, reason=reason, message="no rows")
    failed.finish(RunState.FAILED)
    make(layout, 3, "other")
    assert [" ".join(line.split()) for line in lines(layout)] == [
        "run state started took stages reason",
        "other/run-3 running 2026-11-22 12:03 1h27m 0/2",
        "bot/run-2 failed 2026-11-22 12:02 0s 0/2 user_error",
        "bot/run-1 succeeded 2026-11-22 12:01 0s 0/2",
    ]
    assert len(lines(layout, name="other")) == 2
    assert len(lines(layout, states=("failed",))) == 2
    assert json.loads("\n".join(lines(layout, as_json=True)))[1]["reason"] == "user_error"


def test_only_what_is_shown_is_read(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        make(layout, number).finish(RunState.SUCCEEDED)
    read: list[str] = []

    def counted(run: RunLayout) -> RunStatus:
        read.append(run.folder.name)
        return read_status(run)

    monkeypatch.setattr("jobs.view.listing.read_status", counted)
    assert lines(layout, limit=2)[-1] == "3 more: --all"
    assert sorted(read) == ["run-3", "run-4"]


def test_without_runs_it_says_so(layout: Layout) -> None:
    assert lines(layout) == [f"no runs in {layout.root}"]
