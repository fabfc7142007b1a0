"""The controller: how it is stopped."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

import jobs.stage_run
from jobs.errors import Interrupted
from jobs.observed import Progress, read_status, write_progress
from jobs.state import RunState, StageState
from jobs.stopping import ask_to_stop
from tests.unit.jobs.controller.bench import DONE, SPEC, Bench, Run, commits
from workloads.context import StageContext, StageResult
from workloads.failures import Retries


def _trains(until: threading.Event, finished: bool, sweeps: bool = False) -> Run:
    """A stage that tells progress and goes on until it is let go."""

    def run(context: StageContext) -> StageResult:
        (context.layout.trials_jsonl if sweeps else context.attempt.worker_log(0)).touch()
        write_progress(context.attempt.progress_json, Progress(step=1, max_steps=9))
        assert until.wait(60)
        return StageResult(finished)

    return run


def _stops_once(bench: Bench, asked: threading.Event) -> Callable[[], None]:
    """Sends one signal, and says when the stage has been asked to stop."""
    left = [signal.SIGTERM]

    def stop() -> None:
        if left:
            signal.raise_signal(left.pop())
        elif bench.contexts[0].layout.stop_request.exists():
            asked.set()

    return stop


@pytest.mark.parametrize("sweeps", [False, True])
def test_the_first_stop_asks_for_a_checkpoint(bench: Bench, sweeps: bool) -> None:
    asked = threading.Event()
    bench.work(sft=_trains(asked, finished=False, sweeps=sweeps))
    bench.view.on_progress = _stops_once(bench, asked)
    before = signal.getsignal(signal.SIGTERM)
    assert bench.run() is RunState.STOPPED
    assert signal.getsignal(signal.SIGTERM) is before
    assert bench.states() == [StageState.STOPPED, StageState.SKIPPED]
    assert "stopping: a checkpoint will be committed first" in bench.output.getvalue()
    bench.view.on_progress = lambda: None
    bench.work(sft=commits)
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "sft 2", "merge 1"]


def test_the_second_stop_ends_at_once(bench: Bench) -> None:
    let_go = threading.Event()
    bench.work(sft=_trains(let_go, finished=True))
    bench.view.on_progress = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted):
        bench.run()
    let_go.set()
    assert bench.states() == [StageState.STOPPED, StageState.SKIPPED]
    assert read_status(bench.record.layout).state is RunState.STOPPED


def test_a_stop_with_nothing_to_save_ends_at_once(bench: Bench) -> None:
    let_go = threading.Event()

    def prepare(context: StageContext) -> StageResult:
        os.kill(os.getpid(), signal.SIGTERM)
        assert let_go.wait(60)
        return DONE

    bench.work(sft=prepare)
    with pytest.raises(Interrupted):
        bench.run()
    let_go.set()
    assert bench.states()[0] is StageState.STOPPED


def test_a_failure_while_stopping_is_a_stop(bench: Bench) -> None:
    asked = threading.Event()

    def fail(context: StageContext) -> StageResult:
        _trains(asked, finished=False)(context)
        raise ConnectionError("a worker ended first")

    bench.work(sft=fail)
    bench.view.on_progress = _stops_once(bench, asked)
    assert bench.run() is RunState.STOPPED
    assert bench.started == ["sft 1"]


def test_what_ended_as_it_was_stopped_has_ended_well(bench: Bench) -> None:
    def merge(context: StageContext) -> StageResult:
        bench.ask_to_stop()
        return commits(context)

    bench.work(merge=merge)
    assert bench.run() is RunState.SUCCEEDED


def test_a_stop_reaches_what_waits_to_be_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.stage_run, "Retries", Retries)

    def fail(context: StageContext) -> StageResult:
        threading.Timer(0.2, bench.ask_to_stop).start()
        raise ConnectionError("lost")

    bench.use(SPEC.replace("kind: sft", "kind: sft, retry: {backoff: 1h, max_backoff: 1h}"))
    bench.work(sft=fail)
    assert bench.run() is RunState.STOPPED
    assert bench.states() == [StageState.STOPPED, StageState.SKIPPED]
    assert bench.started == ["sft 1"]


def test_a_stop_reaches_what_waits_for_room(bench: Bench) -> None:
    bench.machine.waits = ["2 CPUs: 2 of 2 in use by other"] * 10**6
    asker = threading.Timer(0.2, bench.ask_to_stop)
    asker.start()
    with pytest.raises(Interrupted):
        bench.run()
    asker.join()
    assert bench.started == []
    assert bench.states() == [StageState.STOPPED, StageState.SKIPPED]


def test_a_stop_before_the_first_stage_and_between_two(bench: Bench) -> None:
    record = bench.open()
    ask_to_stop(record.layout, record.status)
    assert bench.run() is RunState.STOPPED
    assert bench.started == []

    def last_step(context: StageContext) -> StageResult:
        bench.ask_to_stop()
        _until(lambda: context.layout.stop_request.exists() or bench.controller._asked > 0)
        return commits(context)

    bench.work(sft=_as_trains(last_step))
    assert bench.run() is RunState.STOPPED
    assert bench.states() == [StageState.SUCCEEDED, StageState.SKIPPED]
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1"]


def test_one_final_event_whatever_the_end(bench: Bench) -> None:
    asked = threading.Event()
    bench.work(sft=_trains(asked, finished=False))
    bench.view.on_progress = _stops_once(bench, asked)
    bench.run()
    bench.view.on_progress = lambda: signal.raise_signal(signal.SIGINT)
    bench.work(sft=_trains(let_go := threading.Event(), finished=True))
    with pytest.raises(Interrupted):
        bench.run()
    let_go.set()
    bench.view.on_progress = lambda: None
    bench.work(sft=commits)
    bench.run()
    lines = map(json.loads, bench.record.layout.events.read_text().splitlines())
    ends = [event["state"] for event in lines if event["event"] == "run_finished"]
    assert ends == ["stopped", "stopped", "succeeded"]


def _as_trains(run: Run) -> Run:
    def trains(context: StageContext) -> StageResult:
        context.attempt.worker_log(0).touch()
        return run(context)

    return trains


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
