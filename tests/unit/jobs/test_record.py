"""The record: what is written, and in which order."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.errors import RaysmithError, StorageError, UserError
from jobs.masking import masker
from jobs.record import (
    Driver,
    Progress,
    Record,
    StageStatus,
    is_live,
    new_run_id,
    read_progress,
    read_status,
    write_progress,
)
from jobs.runs import find_run
from jobs.state import FailureClass, RunState, StageState, allowed
from storage.fenced import FencedOut
from storage.layout import Layout
from tests.unit.jobs.clock import START, Clock


def make(
    layout: Layout, clock: Clock, run_id: str = "run-1", name: str = "bot", digest: str = "d1"
) -> Record:
    return Record.create(
        layout.run(name, run_id),
        run_id=run_id,
        name=name,
        plan_json="{}",
        spec_text="# token hf_abcdefghijklmnopqrst\nversion: 1\n",
        lock={"git": "abc", "password": "correct horse"},
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
        digest=digest,
        now=clock,
        mask=masker(["PASSWORD"], {"PASSWORD": "correct horse"}),
    )


def events(record: Record) -> list[dict[str, object]]:
    return [json.loads(line) for line in record.layout.events.read_text().splitlines()]


def test_create_writes_everything_without_secrets(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    run = record.layout
    assert run.spec.read_text() == "# token ***\nversion: 1\n"
    assert json.loads(run.lock.read_text()) == {"git": "abc", "password": "***"}
    assert run.plan.read_text() == "{}"
    assert read_status(run) == record.status
    assert record.status.driver == Driver.here()
    with pytest.raises(RaysmithError, match="exists already"):
        make(layout, clock)


def test_move_sets_times_and_leaves_the_other_stage(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    record.move("sft", StageState.RUNNING, attempt=1)
    clock.advance(5)
    record.move("sft", StageState.RETRYING, reason=FailureClass.INFRASTRUCTURE, message="lost")
    again = record.move("sft", StageState.RUNNING, attempt=2, recoveries=1)
    assert (again.reason, again.retry_reason) == (None, FailureClass.INFRASTRUCTURE)
    assert again.retry_message == "lost"
    clock.advance(5)
    done = record.move("sft", StageState.SUCCEEDED, artifact="/a")
    assert (done.attempt, done.recoveries, done.reason, done.message) == (2, 1, None, None)
    assert done.started_at == "2026-11-22T10:32:00.000Z"
    assert done.ended_at == "2026-11-22T10:32:10.000Z"
    assert read_status(record.layout).stages == (done, StageStatus(name="merge", kind="merge"))


def test_events_are_masked_lines_and_come_before_the_status(
    layout: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make(layout, clock)

    def disk_full(path: Path, data: bytes) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("storage.local.write_atomic", disk_full)
    with pytest.raises(StorageError, match="the disk fails"):
        record.move("sft", StageState.FAILED, message="bad\ncorrect horse")
    last = events(record)[-1]
    assert (last["event"], last["stage"]) == ("stage", "sft")
    assert (last["state"], last["message"]) == ("failed", "bad\n***")
    assert record.status.stage("sft").state is StageState.PENDING


def test_illegal_moves_and_unknown_fields_are_refused(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    with pytest.raises(ValueError, match="from pending to succeeded"):
        record.move("sft", StageState.SUCCEEDED)
    with pytest.raises(TypeError, match="atempt"):
        record.move("sft", StageState.RUNNING, atempt=1)
    with pytest.raises(KeyError):
        record.move("sfd", StageState.RUNNING)


def test_a_resumed_run_starts_unfinished_stages_again_and_keeps_finished_ones() -> None:
    for state in StageState:
        assert allowed(state, StageState.PENDING)
        assert allowed(state, StageState.RUNNING) is not state.has_artifact
    assert not allowed(StageState.FAILED, StageState.SUCCEEDED)


def test_resume_takes_over_a_dead_driver_and_refuses_a_live_one(
    layout: Layout, clock: Clock
) -> None:
    record = make(layout, clock)
    record.move("sft", StageState.RUNNING, attempt=1)
    elsewhere = record.status.model_copy(update={"driver": Driver(host="far", pid=1)})
    record.layout.status.write_text(elsewhere.model_dump_json())

    with pytest.raises(UserError, match="process 1 on far"):
        Record.open(record.layout, now=clock).resume()
    clock.advance(61)
    again = Record.open(record.layout, now=clock)
    again.resume()
    assert again.status.driver == Driver.here()
    again.move("sft", StageState.RUNNING, attempt=2)
    again.finish(RunState.STOPPED, "on request")
    assert read_status(record.layout).state is RunState.STOPPED
    assert [event["event"] for event in events(again)][-3:] == [
        "run_resumed",
        "stage",
        "run_finished",
    ]


def test_a_run_whose_driver_died_after_the_last_event_has_that_event_once(
    layout: Layout, clock: Clock
) -> None:
    record = make(layout, clock)
    record.finish(RunState.SUCCEEDED)
    # As it was before the state was written, which comes after the event.
    interrupted = record.status.model_copy(update={"state": RunState.RUNNING, "driver": None})
    record.layout.status.write_text(interrupted.model_dump_json())
    again = Record.open(record.layout, now=clock)
    again.resume()
    again.finish(RunState.SUCCEEDED)
    assert read_status(record.layout).state is RunState.SUCCEEDED
    assert [e["event"] for e in events(again)].count("run_finished") == 1
    again.resume()
    again.finish(RunState.FAILED, "another end")
    assert [e["event"] for e in events(again)].count("run_finished") == 2


def test_a_run_ends_whatever_became_of_its_events(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    with record.layout.events.open("ab") as file:
        file.write(b'{"event": "half a \xc3\n')
    record.finish(RunState.STOPPED)
    assert b"run_finished" in record.layout.events.read_bytes()
    record.layout.events.unlink()
    record.finish(RunState.FAILED)
    assert [event["event"] for event in events(record)] == ["run_finished"]


def test_a_process_that_only_has_the_same_number_is_not_the_driver(
    layout: Layout, clock: Clock
) -> None:
    status = make(layout, clock).status
    reused = Driver.here().model_copy(update={"start_time": "0"})
    assert is_live(status)
    assert not is_live(status.model_copy(update={"driver": reused}))
    assert not is_live(status.model_copy(update={"state": RunState.FAILED}))


def test_beat_renews_the_time_but_not_at_every_call(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock)
    clock.advance(9)
    record.beat()
    assert read_status(record.layout).updated_at == "2026-11-22T10:32:00.000Z"
    clock.advance(1)
    record.beat()
    assert read_status(record.layout).updated_at == "2026-11-22T10:32:10.000Z"


def test_work_goes_on_while_storage_fails(
    layout: Layout, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, tries = make(layout, clock), 0

    def broken(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise StorageError("the disk fails")

    clock.advance(10)
    with monkeypatch.context() as patch:
        patch.setattr("storage.fenced.FencedFile.write", broken)
        record.beat()
        record.beat()
        clock.advance(10)
        record.beat()
    assert tries == 2
    clock.advance(10)
    record.beat()
    assert read_status(record.layout).updated_at == "2026-11-22T10:32:30.000Z"


def test_a_driver_whose_run_was_taken_over_writes_nothing_more(
    layout: Layout, clock: Clock
) -> None:
    suspended = make(layout, clock)
    document = json.loads(suspended.layout.status.read_text())
    document["driver"] |= {"host": "elsewhere"}
    suspended.layout.status.write_text(json.dumps(document))
    later = Record.open(suspended.layout, now=clock)
    clock.advance(120)
    later.resume()
    for write in (
        suspended.beat,
        lambda: suspended.move("sft", StageState.RUNNING, attempt=1),
        lambda: suspended.finish(RunState.FAILED),
    ):
        with pytest.raises(FencedOut):
            write()
    assert read_status(later.layout).state is RunState.RUNNING
    assert [event["event"] for event in events(later)] == ["run_created", "run_resumed"]
    assert not suspended.is_ours()
    assert later.is_ours()


def test_a_record_of_another_version_is_read(layout: Layout, clock: Clock) -> None:
    run = make(layout, clock).layout
    document = json.loads(run.status.read_text())
    document["colour"] = "blue"
    del document["stages"][0]["recoveries"], document["driver"]
    run.status.write_text(json.dumps(document))
    assert read_status(run).stage("sft").recoveries == 0
    run.status.write_text('{"run_id"')
    with pytest.raises(UserError, match="cannot be read"):
        read_status(run)
    assert find_run(layout, "bot", "d1") is None


def test_run_ids_sort_by_time() -> None:
    assert new_run_id(START, "ab12cdef") == "20261122-103200-ab12cd"
    assert new_run_id(START + timedelta(seconds=1), "00") > new_run_id(START, "ff")


def test_progress_may_be_absent_partial_or_torn(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    path.write_text('{"step": 3')
    assert read_progress(path) is None
    path.write_text('{"step": 3, "max_steps": 12, "of_tomorrow": 1}')
    progress = read_progress(path)
    assert progress == Progress(step=3, max_steps=12)
    assert progress.share == 0.25
    write_progress(path, Progress(phase="loading", loss=float("nan")))
    assert (read_progress(path) or Progress()).phase == "loading"
