"""The controller: stages that stand still, a storage that refuses, and who is told."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import jobs.attempt
import jobs.stall
from jobs.errors import StorageRefused, UserError
from jobs.record import Record
from jobs.state import FailureClass, RunState, StageState
from storage.commit import begin, commit
from storage.layout import AttemptLayout
from tests.unit.jobs.controller.bench import Bench, commits, raises
from workloads.context import StageContext, StageResult


def test_who_wants_to_know_is_told_how_a_run_ended(bench: Bench) -> None:
    bench.work(sft=raises(UserError("no rows")))
    bench.run()
    bench.run()
    assert bench.told == [
        ("failed", RunState.FAILED, None), ("succeeded", RunState.SUCCEEDED, None),
    ]  # fmt: skip


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that say nothing have stood still at once."""
    monkeypatch.setattr(jobs.stall, "duration_s", lambda text: 0.05)
    monkeypatch.setattr(jobs.stall, "_SET_UP_S", 0.05)


def _stands_still(then: Callable[[], None]) -> Callable[[StageContext], StageResult]:
    """Training that gets on only when its workers were asked to end."""

    def run(context: StageContext) -> StageResult:
        if context.owner.attempt > 1:
            return commits(context)
        context.attempt.worker_log(0).touch()
        while not context.attempt.end_request.exists():
            os.sched_yield()
        then()
        raise ConnectionError("a worker ended")

    return run


@pytest.mark.usefixtures("hurried")
def test_what_stands_still_is_ended_told_and_tried_again(bench: Bench) -> None:
    seen: list[str] = []
    bench.work(sft=_stands_still(lambda: seen.append("ended")))
    bench.machine.lost = ()
    assert bench.run() is RunState.SUCCEEDED
    assert seen == ["ended"]
    assert bench.started == ["sft 1", "sft 2", "merge 1"]
    assert bench.told[0] == ("stalled", RunState.RUNNING, "sft")
    output = bench.output.getvalue()
    assert "[sft] retrying: stalled: no progress for" in output
    events = bench.record.layout.events.read_text()
    assert events.count('"event": "stalled"') == 1


@pytest.mark.usefixtures("hurried")
def test_what_can_not_be_ended_is_given_up(bench: Bench) -> None:
    def merge(context: StageContext) -> StageResult:
        while not context.layout.stop_request.exists():
            os.sched_yield()
        return commits(context)

    bench.work(merge=merge)
    assert bench.run() is RunState.FAILED
    assert bench.status("merge").reason is FailureClass.STALLED
    assert bench.started == ["sft 1", "merge 1"]


def test_a_full_disk_fails_the_stage_clears_what_is_torn_and_keeps_what_is_whole(
    bench: Bench,
) -> None:
    folders: list[Path] = []

    def fills(context: StageContext) -> StageResult:
        for step in (1, 2):
            folder = context.layout.checkpoint(step)
            folders.append(folder)
            begin(folder, context.owner)
            (folder / "model.bin").write_text("half of it")
            if step == 1:
                commit(folder, context.owner, {})
        error = RuntimeError("a worker failed")
        raise error from OSError(errno.ENOSPC, "No space left on device", str(folders[1]))

    bench.work(sft=fills)
    assert bench.run() is RunState.FAILED
    status = bench.status("sft")
    assert status.reason is FailureClass.STORAGE
    assert (status.message or "").startswith(f"no space is left: {folders[1]}\n  fix: make room")
    assert [folder.exists() for folder in folders] == [True, False]
    assert bench.started == ["sft 1"]


def test_a_record_that_can_not_be_written_ends_the_driver_with_a_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "status.json")

    def sft(context: StageContext) -> StageResult:
        monkeypatch.setattr(Record, "_write", refuse)
        return commits(context)

    bench.work(sft=sft)
    with pytest.raises(StorageRefused, match=r"is read-only: status\.json; the run lies in"):
        bench.run()
    monkeypatch.undo()
    assert bench.status("sft").state is StageState.RUNNING


def test_a_full_disk_whose_file_is_not_told_is_the_run_s(bench: Bench) -> None:
    bench.work(sft=raises(ValueError("I/O error: No space left on device (os error 28)")))
    assert bench.run() is RunState.FAILED
    message = bench.status("sft").message or ""
    assert message.endswith(f"the run lies in {bench.record.layout.folder}")


def test_running_out_of_memory_says_what_to_change(bench: Bench) -> None:
    def train(context: StageContext) -> StageResult:
        context.attempt.logging_jsonl.write_text('{"loss": 1.0, "memory_gib": 2.0}\n')
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench.work(sft=train)
    assert bench.run() is RunState.FAILED
    status = bench.status("sft")
    assert status.reason is FailureClass.DEVICE_OUT_OF_MEMORY
    lines = (status.message or "").splitlines()
    assert lines[0] == "CUDA out of memory"
    assert lines[1] == "  measured: 2.1 GB in a worker"
    assert lines[2].startswith("  fix: stages.sft.training.gradient_checkpointing: true")


def test_an_attempt_that_can_not_even_log_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(attempt: AttemptLayout) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(attempt.driver_log))

    monkeypatch.setattr(jobs.attempt, "log_file", refuse)
    assert bench.run() is RunState.FAILED
    assert bench.status("sft").reason is FailureClass.STORAGE
    assert bench.started == []
