"""What the user reads when a run ends."""

import ast
import shlex
from pathlib import Path

import pytest

from jobs.observed import RunStatus, StageStatus
from jobs.state import FailureClass, RunState, StageState
from jobs.view.closing import closing
from storage.layout import Layout, RunLayout


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    return Layout(tmp_path / "it's here").run("bot", "run-1")


def status(state: RunState, *stages: StageStatus, message: str | None = None) -> RunStatus:
    return RunStatus(
        run_id="run-1",
        name="bot",
        state=state,
        digest="d",
        stages=stages,
        created_at="2026-11-22T10:00:00.000Z",
        updated_at="2026-11-22T10:02:00.000Z",
        message=message,
    )


def test_success_names_artifacts_curves_and_a_line_that_loads_the_model(run: RunLayout) -> None:
    model = run.artifact("merge")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    run.stage("sft").attempt(1).images.mkdir(parents=True)
    text = closing(
        status(
            RunState.SUCCEEDED,
            StageStatus(
                name="sft", kind="sft", state=StageState.CACHED, attempt=1, artifact="/old/sft"
            ),
            StageStatus(
                name="merge", kind="merge", state=StageState.SUCCEEDED, artifact=str(model)
            ),
        ),
        run,
        {"cluster": 4.2, "sft": 61},
    )
    assert "time: cluster 4s, sft 1m01s" in text
    assert "sft: /old/sft  (cached)" in text
    assert f"sft: {run.stage('sft').attempt(1).images}" in text
    program, flag, code = shlex.split(text.splitlines()[-1])
    assert (program, flag) == ("python", "-c")
    assert str(model) in [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
    assert shlex.split(text.splitlines()[-2]) == ["raysmith", "logs", str(run.folder)]


def test_failure_says_which_stage_why_where_the_log_is_and_what_to_do(run: RunLayout) -> None:
    log = run.stage("sft").attempt(1).driver_log
    log.parent.mkdir(parents=True)
    log.touch()
    failed = StageStatus(
        name="sft",
        kind="sft",
        state=StageState.FAILED,
        attempt=1,
        reason=FailureClass.USER_ERROR,
        message="no rows\n  fix: add some",
    )
    text = closing(status(RunState.FAILED, failed), run, {}, "raysmith run job.yaml")
    assert "stage sft failed: user_error\n  no rows\n    fix: add some\n" in text
    assert f"log: {log}" in text
    assert "raysmith run job.yaml   (mend the cause first" in text
    assert "python -c" not in text


def test_a_stopped_run_says_which_command_goes_on(run: RunLayout) -> None:
    stopped = StageStatus(name="sft", kind="sft", state=StageState.STOPPED)
    text = closing(status(RunState.STOPPED, stopped), run, {}, "raysmith run job.yaml")
    assert "raysmith run job.yaml   (goes on from the last committed checkpoint)" in text
