"""The controller: stages that run at the same time, and what becomes of those after a failure."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from jobs.errors import UserError
from jobs.state import FailureClass, RunState, StageState
from tests.unit.jobs.controller.bench import Bench, Run, commits, raises
from workloads import WORKLOADS
from workloads.context import StageContext, StageResult

DIAMOND = """\
version: 1
name: bot
stages:
  base: {kind: sft, model: m, dataset: {train: [x]}}
  left: {kind: merge, model: "${stages.base.model}"}
  right: {kind: merge, model: "${stages.base.model}"}
  last: {kind: sft, model: "${stages.left.model}", dataset: {train: [x]}, after: [right]}
"""
SERVES = "  serve: {kind: serve, model: m}\n"


@pytest.fixture
def diamond(bench: Bench) -> Bench:
    """A stage, two that need it, and one that needs both."""
    bench.use(DIAMOND)
    bench.keys = {name: f"key of {name}" for name in ("base", "left", "right", "last")}
    return bench


def _meet() -> Run:
    """A stage of which two must be at work at once to get on."""
    meeting = threading.Barrier(2, timeout=30)

    def run(context: StageContext) -> StageResult:
        meeting.wait()
        return commits(context)

    return run


def _by_name(**runs: Run) -> Run:
    return lambda context: runs.get(context.stage.name, commits)(context)


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_does_not_depend_on_one_another_runs_at_the_same_time(diamond: Bench) -> None:
    diamond.work(merge=_meet())
    assert diamond.run() is RunState.SUCCEEDED
    first, *two, last = diamond.started
    assert (first, sorted(two), last) == ("base 1", ["left 1", "right 1"], "last 1")
    assert diamond.states() == [StageState.SUCCEEDED] * 4


def test_each_attempt_has_its_own_log(diamond: Bench) -> None:
    meeting = threading.Barrier(2, timeout=30)

    def tell(context: StageContext) -> StageResult:
        meeting.wait()
        context.note(f"this is {context.stage.name}")
        meeting.wait()
        return commits(context)

    diamond.work(merge=tell)
    diamond.run()
    for name in ("left", "right"):
        other = {"left": "right", "right": "left"}[name]
        log = diamond.record.layout.stage(name).attempt(1).driver_log.read_text()
        assert f"this is {name}" in log
        assert f"this is {other}" not in log


def test_a_failure_keeps_back_only_what_needs_the_stage(diamond: Bench) -> None:
    left_failed = threading.Event()

    def left(context: StageContext) -> StageResult:
        raise UserError("no adapter")

    def right(context: StageContext) -> StageResult:
        _wait(lambda: diamond.status("left").state is StageState.FAILED)
        left_failed.set()
        return commits(context)

    diamond.work(merge=_by_name(left=left, right=right))
    assert diamond.run() is RunState.FAILED
    assert left_failed.is_set()
    assert diamond.states() == [
        StageState.SUCCEEDED, StageState.FAILED, StageState.SUCCEEDED, StageState.SKIPPED,
    ]  # fmt: skip
    assert isinstance(diamond.controller.failure, UserError)
    diamond.work(merge=commits)
    assert diamond.run() is RunState.SUCCEEDED
    assert diamond.started.count("right 1") == 1
    assert diamond.started[-2:] == ["left 2", "last 1"]


def test_one_branch_goes_on_while_another_waits_to_be_tried_again(
    diamond: Bench, slept: list[float]
) -> None:
    failing = raises(ConnectionError("lost"))

    def left(context: StageContext) -> StageResult:
        if context.owner.attempt > 1:
            assert diamond.status("right").state is StageState.SUCCEEDED
        else:
            _wait(lambda: diamond.status("right").state is StageState.SUCCEEDED)
        return failing(context)

    diamond.work(merge=_by_name(left=left))
    assert diamond.run() is RunState.SUCCEEDED
    assert (diamond.status("left").attempt, slept) == (2, [1.0])


def test_what_wants_the_process_for_itself_runs_alone(
    diamond: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work: list[str] = []

    def alone(context: StageContext) -> StageResult:
        at_work.append(context.stage.name)
        time.sleep(0.03)
        assert at_work == [context.stage.name]
        at_work.clear()
        return commits(context)

    monkeypatch.setitem(WORKLOADS, "merge", replace(WORKLOADS["merge"], exclusive=True))
    diamond.work(merge=alone)
    assert diamond.run() is RunState.SUCCEEDED
    assert diamond.started == ["base 1", "left 1", "right 1", "last 1"]


def test_a_service_begins_once_the_others_have_ended(diamond: Bench) -> None:
    diamond.use(DIAMOND.replace("stages:\n", "stages:\n" + SERVES))
    diamond.keys = {"serve": "key of serve", **diamond.keys}
    diamond.work(serve=lambda context: StageResult(finished=True))
    assert diamond.run() is RunState.SUCCEEDED
    assert diamond.started[-1] == "serve 1"


def test_one_stop_asks_all_branches(diamond: Bench) -> None:
    def trains(context: StageContext) -> StageResult:
        context.attempt.worker_log(0).touch()
        _wait(context.layout.stop_request.exists)
        return StageResult(finished=False)

    diamond.work(merge=trains)
    asker = threading.Thread(target=_ask_when, args=(diamond, ("left 1", "right 1")))
    asker.start()
    assert diamond.run() is RunState.STOPPED
    asker.join()
    assert diamond.states() == [
        StageState.SUCCEEDED, StageState.STOPPED, StageState.STOPPED, StageState.SKIPPED,
    ]  # fmt: skip


def _ask_when(bench: Bench, started: tuple[str, ...]) -> None:
    _wait(lambda: set(started) <= set(bench.started))
    _wait(lambda: all(c.attempt.worker_log(0).exists() for c in bench.contexts[1:]))
    bench.ask_to_stop()


def test_the_first_failure_is_the_run_s(diamond: Bench) -> None:
    def right(context: StageContext) -> StageResult:
        _wait(lambda: diamond.status("left").state is StageState.FAILED)
        raise MemoryError

    diamond.work(merge=_by_name(left=raises(UserError("no adapter")), right=right))
    # A worker out of memory is tried again once.
    assert diamond.run() is RunState.FAILED
    assert isinstance(diamond.controller.failure, UserError)
    assert diamond.status("right").reason is FailureClass.HOST_OUT_OF_MEMORY
