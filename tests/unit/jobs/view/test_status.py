"""What `raysmith status` prints, from storage alone."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.text import Text

from jobs.errors import UserError
from jobs.observed import Driver, Progress, RunStatus, StageStatus, write_progress
from jobs.state import FailureClass, RunState, StageState
from jobs.view.status import as_json, describe, duration, render_status
from storage.layout import Layout, RunLayout

NOW = datetime(2026, 11, 22, 10, 5, tzinfo=UTC)
OLD = "/runs/bot/old/artifacts/merge"
RUN = RunStatus(
    run_id="run-1",
    name="bot",
    state=RunState.RUNNING,
    digest="d",
    stages=(
        StageStatus(
            name="sft",
            kind="sft",
            state=StageState.RUNNING,
            attempt=2,
            recoveries=1,
            started_at="2026-11-22T10:00:00.000Z",
        ),
        StageStatus(name="merge", kind="merge"),
    ),
    created_at="2026-11-22T10:00:00.000Z",
    updated_at="2026-11-22T10:02:00.000Z",
    driver=Driver.here(),
)


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    layout = Layout(tmp_path).run("bot", "run-1")
    attempt = layout.stage("sft").attempt(2)
    attempt.folder.mkdir(parents=True)
    write_progress(
        attempt.progress_json,
        Progress(step=12, max_steps=100, loss=1.5, remaining_s=61, phase="training"),
    )
    edges = [
        {"name": "sft", "needs": [], "inputs": {}},
        {"name": "merge", "needs": ["sft"], "inputs": {"model": "sft"}},
    ]
    layout.plan.write_text(json.dumps({"stages": edges}))
    return layout


def render(run: RunLayout, status: RunStatus, markup: bool = False) -> str:
    run.status.write_text(status.model_dump_json())
    return render_status(run, markup=markup, now=lambda: NOW)


def test_a_running_run_shows_attempt_recoveries_time_and_progress(run: RunLayout) -> None:
    text = render(run, RUN)
    assert text.startswith("bot/run-1: running (process ")
    line = next(line for line in text.splitlines() if line.startswith("sft"))
    assert line.split("  ")[0] == "sft"
    assert "2 (+1 recovered)  5m00s    12%  training  step 12/100  loss 1.5000  ETA 1m01s" in line


def test_a_run_whose_driver_is_gone_is_interrupted_and_its_clock_stands(run: RunLayout) -> None:
    gone = Driver.here().model_copy(update={"start_time": "0"})
    text = render(run, RUN.model_copy(update={"driver": gone}))
    assert "interrupted (the same command goes on)" in text
    line = next(line for line in text.splitlines() if line.startswith("sft"))
    assert "interrupted" in line
    assert "2m00s" in line
    assert "ETA" not in line
    assert json.loads(as_json(run, now=lambda: NOW))["live"] is False


def test_reason_message_and_artifact_are_told_and_markup_in_them_is_inert(run: RunLayout) -> None:
    failed = StageStatus(
        name="sft",
        kind="sft",
        state=StageState.FAILED,
        reason=FailureClass.USER_ERROR,
        message="no rows in [red]data[/red]",
    )
    cached = StageStatus(name="merge", kind="merge", state=StageState.CACHED, artifact=OLD)
    ended = RUN.model_copy(update={"state": RunState.FAILED, "stages": (failed, cached)})
    text = render(run, ended)
    assert "sft: user_error: no rows in [red]data[/red]" in text
    assert f"merge: taken from bot/old, artifact in {OLD}" in text
    assert Text.from_markup(render(run, ended, markup=True)).plain == text


def test_json_holds_status_folder_and_progress_and_no_nan(run: RunLayout) -> None:
    path = run.stage("sft").attempt(2).progress_json
    write_progress(path, Progress(step=1, loss=float("nan")))
    render(run, RUN)
    document = json.loads(as_json(run), parse_constant=pytest.fail)
    assert document["folder"] == str(run.folder)
    assert document["stages"][0]["progress"]["step"] == 1
    assert document["stages"][0]["progress"]["loss"] is None
    assert document["stages"][1]["progress"] is None


def test_what_a_stage_needs_and_waits_for_is_told(run: RunLayout) -> None:
    lines = [" ".join(line.split()) for line in render(run, RUN).splitlines()]
    assert "merge merge sft pending waits for sft" in lines
    sft, merge = json.loads(as_json(run, now=lambda: NOW))["stages"]
    assert (merge["needs"], merge["inputs"]) == (["sft"], {"model": "sft"})
    assert (merge["waits_for"], sft["waits_for"]) == (["sft"], [])
    assert (sft["percent"], sft["eta_s"], merge["percent"]) == (12.0, 61, None)

    failed = RUN.stages[0].model_copy(update={"state": StageState.FAILED})
    skipped = RUN.stages[1].model_copy(update={"state": StageState.SKIPPED})
    ended = RUN.model_copy(update={"state": RunState.FAILED, "stages": (failed, skipped)})
    lines = [" ".join(line.split()) for line in render(run, ended).splitlines()]
    assert "merge merge sft skipped sft failed" in lines
    assert json.loads(as_json(run))["stages"][0]["eta_s"] is None

    run.plan.write_text("torn")
    assert "sft failed" not in render(run, ended)


def test_why_a_stage_was_tried_again_and_where_a_cached_one_is_from_is_told(run: RunLayout) -> None:
    again = RUN.stages[0].model_copy(
        update={"retry_reason": FailureClass.NODE_LOST, "retry_message": "10.0.0.7\nmore"}
    )
    cached = StageStatus(name="merge", kind="merge", state=StageState.CACHED, artifact=OLD)
    told = RUN.model_copy(update={"stages": (again, cached)})
    assert "sft: tried again after node_lost: 10.0.0.7\n" in render(run, told)
    sft, merge = json.loads(as_json(run))["stages"]
    assert (sft["origin"], merge["origin"]) == (None, "bot/old")
    assert (sft["retry_reason"], sft["retry_message"]) == ("node_lost", "10.0.0.7\nmore")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no status\.json"):
        render_status(RunLayout(tmp_path))


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.6, "5s"), (61, "1m01s"), (7500, "2h05m"), (float("inf"), "?")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rows_are_counted_as_rows() -> None:
    progress = Progress(step=64, max_steps=100, unit="rows", rows_per_second=3.14, remaining_s=12)
    assert describe(progress) == "rows 64/100  3.1 rows/s  ETA 12s"
