"""What is asked of a run that goes on: to stop, or to serve another model."""

import threading
import time
from pathlib import Path

import pytest

from jobs.errors import RaysmithError, UserError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from jobs.record import Record, StageStatus
from jobs.service import stop, update
from jobs.state import RunState, StageState
from jobs.stopping import GRACEFUL, StopRequests
from storage.layout import Layout, RunLayout
from workloads.serve.updates import Outcome, answer, next_request

SPEC = "version: 1\nname: bot\nstages: {serve: {kind: serve, model: m}}\n"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """The record of a run whose stage runs, driven by this process."""
    (tmp_path / "job.yaml").write_text(SPEC)
    plan = resolve(load(tmp_path / "job.yaml", (), {}), str(tmp_path))
    record = Record.create(
        Layout(tmp_path / "runs").run("bot", "1"), run_id="1", name="bot",
        plan_json=plan.to_json(), spec_text=SPEC, lock={},
        stages=(StageStatus(name="serve", kind="serve"),), digest="d",
    )  # fmt: skip
    record.move("serve", StageState.RUNNING, attempt=1)
    return record


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def serve(layout: RunLayout) -> None:
    service = layout.stage("serve").attempt(1).service_json
    service.parent.mkdir(parents=True)
    service.write_text("{}")


def later(act: "threading.Thread") -> None:
    act.daemon = True
    act.start()


def test_a_run_is_asked_to_stop_and_waited_for(record: Record) -> None:
    assert stop(record.layout, wait=False).state is RunState.RUNNING
    assert StopRequests(record.layout).times == GRACEFUL

    def end() -> None:
        time.sleep(0.05)
        record.finish(RunState.SUCCEEDED)

    later(threading.Thread(target=end))
    assert stop(record.layout, wait=True).state is RunState.SUCCEEDED
    with pytest.raises(UserError, match="is not going on: it succeeded"):
        stop(record.layout, wait=True)


@pytest.mark.parametrize("done", [True, False])
def test_an_update_is_asked_for_and_its_outcome_told(
    record: Record, model: Path, done: bool
) -> None:
    serve(record.layout)
    folder = record.layout.stage("serve").updates

    def work() -> None:
        while not (wanted := next_request(folder)):
            time.sleep(0.01)
        answer(folder, wanted, Outcome(done, wanted.model))

    later(threading.Thread(target=work))
    assert update(record.layout, str(model), None, print) == Outcome(done, str(model))


def test_what_serves_nothing_can_t_be_updated(record: Record, model: Path) -> None:
    with pytest.raises(UserError, match="serves nothing"):
        update(record.layout, str(model), None, print)
    serve(record.layout)
    with pytest.raises(UserError, match="serves nothing in a stage 'other'"):
        update(record.layout, str(model), "other", print)
    with pytest.raises(UserError, match="no model at"):
        update(record.layout, "./absent", None, print)
    assert next_request(record.layout.stage("serve").updates) is None


def test_an_update_ends_with_its_run(record: Record, model: Path) -> None:
    serve(record.layout)

    def end() -> None:
        while not next_request(record.layout.stage("serve").updates):
            time.sleep(0.01)
        record.finish(RunState.STOPPED)

    later(threading.Thread(target=end))
    with pytest.raises(RaysmithError, match="the run ended before"):
        update(record.layout, str(model), None, print)
