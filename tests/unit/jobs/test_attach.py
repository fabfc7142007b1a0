"""Following a run that another process drives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.attach import attach
from jobs.errors import ExitCode, Interrupted
from jobs.record import Record, StageStatus
from jobs.state import FailureClass, RunState, StageState
from storage.layout import Layout


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(
        Layout(tmp_path).run("bot", "run-1"), run_id="run-1", name="bot", plan_json="{}",
        spec_text="", lock={}, stages=(StageStatus(name="sft", kind="sft"),), digest="d",
    )  # fmt: skip


def attached(record: Record, meanwhile: Callable[[], None]) -> tuple[ExitCode, list[str]]:
    lines: list[str] = []
    code = attach(record.layout, write=lines.append, follow=lambda *_, **__: meanwhile())
    return code, lines


def test_the_exit_code_is_that_of_the_run(record: Record) -> None:
    code, lines = attached(record, lambda: record.finish(RunState.SUCCEEDED))
    assert code is ExitCode.OK
    assert "run bot/run-1 is driven already by process" in lines[0]
    assert lines[-1] == "bot/run-1: succeeded"
    assert attached(record, lambda: record.finish(RunState.STOPPED))[0] is ExitCode.INTERRUPTED
    assert attached(record, lambda: record.finish(RunState.FAILED))[0] is ExitCode.FAILED
    record.move("sft", StageState.FAILED, reason=FailureClass.USER_ERROR)
    assert attached(record, lambda: None)[0] is ExitCode.USER_ERROR


def test_a_driver_that_is_gone_is_no_success(record: Record) -> None:
    code, lines = attached(record, lambda: None)
    assert code is ExitCode.FAILED
    assert lines[-1] == "bot/run-1: its driver is gone; the same command goes on"


def test_leaving_it_stops_nothing(record: Record) -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="raysmith stop bot/run-1"):
        attached(record, leave)
    assert not record.layout.stop_request.exists()
    assert record.status.state is RunState.RUNNING
