"""The controller: how it is stopped."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from jobs.errors import Interrupted
from jobs.observed import Progress, read_status, write_progress
from jobs.state import RunState, StageState
from tests.unit.jobs.controller.bench import DONE, Bench, Run, commits
from workloads.context import StageContext, StageResult


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
