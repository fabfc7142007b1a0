"""The controller: what it runs, tries again, leaves out, and how it is stopped and taken up."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import jobs.controller
from jobs.controller import Controller, Job, open_record
from jobs.errors import ClusterError, Interrupted, UserError
from jobs.load.loader import load
from jobs.masking import masker
from jobs.observed import Driver, Progress, read_status, write_progress
from jobs.plan.resolve import resolve
from jobs.record import Record, StageStatus
from jobs.state import FailureClass, RunState, StageState
from jobs.view.terminal import PlainView
from storage.commit import begin, commit
from storage.durable import write_atomic
from storage.layout import Layout
from workloads import WORKLOADS, Workload
from workloads.check import Checked
from workloads.context import StageContext, StageResult

SPEC = """\
version: 1
name: bot
stages:
  sft: {kind: sft, model: m, dataset: {train: [x]}}
  merge: {kind: merge, model: "${stages.sft.model}"}
"""
DONE = StageResult(finished=True, timings={"work": 1.0})
Run = Callable[[StageContext], StageResult]


def commits(context: StageContext) -> StageResult:
    """A stage that leaves an artifact."""
    begin(context.artifact, context.owner)
    (context.artifact / "model.bin").write_text("weights")
    commit(context.artifact, context.owner, {})
    return DONE


def raises(*errors: BaseException) -> Run:
    """A stage that fails with each of the errors, then succeeds."""
    left = list(errors)

    def run(context: StageContext) -> StageResult:
        if left:
            raise left.pop(0)
        return commits(context)

    return run


class Machine:
    """A cluster that refuses as often as it is told."""

    own_address = "127.0.0.1"

    def __init__(self) -> None:
        self.refusals = 0

    def connect(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ClusterError("Ray did not start")

    def cpus_per_worker(self, workers: int) -> int:
        return 1


class Watcher(PlainView):
    """Does something, in the controller's thread, each time that progress is shown."""

    def __init__(self, stream: io.StringIO) -> None:
        super().__init__(stream)
        self.on_progress: Callable[[], None] = lambda: None

    def progress(self, stage: str, progress: Progress) -> None:
        self.on_progress()


class Bench:
    """A job of two stages whose work is set by each test."""

    def __init__(self, folder: Path, code: ModuleType) -> None:
        self.folder = folder
        self.use(SPEC)
        self.keys = {"sft": "key-1", "merge": "key-2"}
        self.layout = Layout(folder / "runs")
        self.code = code
        self.machine = Machine()
        self.output = io.StringIO()
        self.view = Watcher(self.output)
        self.started: list[str] = []
        self.contexts: list[StageContext] = []
        self.work(sft=commits, merge=commits)

    def use(self, spec: str) -> None:
        file = self.folder / "job.yaml"
        file.write_text(spec)
        self.plan = resolve(load(file, (), {}), str(self.folder / "runs"))

    def work(self, **runs: Run) -> None:
        """Sets what stages do."""
        for kind, run in runs.items():
            setattr(self.code, kind, self._noted(run))

    def _noted(self, run: Run) -> Run:
        def noted(context: StageContext) -> StageResult:
            self.started.append(f"{context.stage.name} {context.owner.attempt}")
            self.contexts.append(context)
            return run(context)

        return noted

    def open(self) -> Record:
        return open_record(self._job(), self.layout)

    def run(self) -> RunState:
        self.record = self.open()
        self.controller = Controller(self._job(), self.record, self.layout, self.machine, self.view)
        return self.controller.run()

    def _job(self) -> Job:
        checked = Checked(self.keys, (), {})
        return Job(self.plan, SPEC, checked, {}, masker(["TOKEN"], {"TOKEN": "secret-word"}))

    def status(self, stage: str) -> StageStatus:
        """What the record on disk says of a stage."""
        return read_status(self.record.layout).stage(stage)

    def states(self) -> list[StageState]:
        return [self.status(name).state for name in self.keys]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the controller would have waited between attempts."""
    seconds: list[float] = []

    class Clock:
        @staticmethod
        def sleep(duration: float) -> None:
            seconds.append(duration)

    monkeypatch.setattr(jobs.controller, "time", Clock)
    return seconds


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> Bench:
    code = ModuleType("stages_of_this_test")
    monkeypatch.setitem(sys.modules, code.__name__, code)
    for kind in ("sft", "merge", "serve"):
        monkeypatch.setitem(WORKLOADS, kind, Workload(check="", run=f"{code.__name__}:{kind}"))
    monkeypatch.setattr(jobs.controller, "_POLL_S", 0.005)
    return Bench(tmp_path, code)


def test_stages_run_in_order_and_hand_on_their_artifacts(bench: Bench) -> None:
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1"]
    assert bench.states() == [StageState.SUCCEEDED] * 2
    sft, merge = bench.contexts
    assert (sft.seed, sft.owner.key, dict(sft.inputs)) == (42, "key-1", {})
    assert merge.inputs == {"model": sft.artifact}
    assert bench.status("sft").artifact == str(sft.artifact)
    assert bench.controller.timings == {"sft.work": 1.0, "merge.work": 1.0}
    assert read_status(bench.record.layout).state is RunState.SUCCEEDED
    assert bench.output.getvalue().splitlines()[:2] == ["[sft] running", "[sft] succeeded"]


def test_what_has_succeeded_is_not_run_again(bench: Bench) -> None:
    bench.run()
    first = bench.record.status.run_id
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.status.run_id == first
    assert len(bench.started) == 2


def test_a_service_is_run_each_time_and_ends_when_it_is_asked_to(bench: Bench) -> None:
    bench.use(SPEC + "  serve: {kind: serve, model: m}\n")
    bench.keys["serve"] = "key-3"

    def serve(context: StageContext) -> StageResult:
        context.attempt.service_json.touch()
        signal.raise_signal(signal.SIGTERM)
        while not context.layout.stop_request.exists():
            os.sched_yield()
        return DONE

    bench.work(serve=serve)
    for _ in range(2):
        assert (bench.run(), bench.status("serve").artifact) == (RunState.SUCCEEDED, None)
    assert bench.started == ["sft 1", "merge 1", "serve 1", "serve 2"]
    assert "what is being answered will end first" in bench.output.getvalue()


def test_an_artifact_that_was_lost_is_made_again(bench: Bench) -> None:
    bench.run()
    (bench.contexts[1].artifact / "model.bin").write_text("torn")
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1", "merge 2"]


def test_another_run_takes_over_what_has_not_changed(bench: Bench) -> None:
    bench.run()
    artifact = bench.status("sft").artifact
    bench.keys = {"sft": "key-1", "merge": "key-3"}
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1", "merge 1"]
    assert bench.states() == [StageState.CACHED, StageState.SUCCEEDED]
    assert bench.status("sft").artifact == artifact
    assert bench.contexts[2].inputs == {"model": Path(artifact or "")}


def test_infrastructure_is_tried_again_with_growing_pauses(
    bench: Bench, slept: list[float]
) -> None:
    bench.work(sft=raises(*[ConnectionError("lost")] * 3))
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == [*(f"sft {n}" for n in (1, 2, 3, 4)), "merge 1"]
    assert slept == [1.0, 2.0, 4.0]
    status = bench.status("sft")
    assert (status.attempt, status.recoveries, status.reason) == (4, 3, None)


def test_the_fourth_failure_of_infrastructure_is_the_last(bench: Bench) -> None:
    errors = [ConnectionError(f"lost {n}") for n in range(4)]
    bench.work(sft=raises(*errors))
    assert bench.run() is RunState.FAILED
    assert bench.controller.failure is errors[3]
    assert bench.states() == [StageState.FAILED, StageState.SKIPPED]
    status = bench.status("sft")
    assert (status.reason, status.message) == (FailureClass.INFRASTRUCTURE, "lost 3")
    assert (status.attempt, status.recoveries) == (4, 3)


def test_classes_of_failure_are_counted_apart(bench: Bench) -> None:
    bench.work(sft=raises(MemoryError(), ConnectionError(), ConnectionError(), MemoryError()))
    assert bench.run() is RunState.FAILED
    assert bench.status("sft").reason is FailureClass.HOST_OUT_OF_MEMORY
    assert bench.status("sft").recoveries == 3


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("no rows for secret-word"), FailureClass.USER_ERROR, "no rows for ***"),
        (ValueError(), FailureClass.UNKNOWN, "ValueError"),
        (SystemExit(3), FailureClass.UNKNOWN, "3"),
    ],
)
def test_what_will_not_mend_itself_is_not_tried_again(
    bench: Bench, slept: list[float], error: BaseException, kind: FailureClass, message: str
) -> None:
    bench.work(sft=raises(error))
    assert bench.run() is RunState.FAILED
    assert (bench.started, slept) == (["sft 1"], [])
    assert bench.states() == [StageState.FAILED, StageState.SKIPPED]
    assert (bench.status("sft").reason, bench.status("sft").message) == (kind, message)
    assert "Traceback" in bench.contexts[0].attempt.driver_log.read_text()


def test_a_failed_run_goes_on_where_it_failed(bench: Bench) -> None:
    bench.work(merge=raises(UserError("disk is full")))
    assert bench.run() is RunState.FAILED
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1", "merge 2"]
    assert bench.status("merge").message is None


def test_a_cluster_that_does_not_start_is_tried_again(bench: Bench) -> None:
    bench.machine.refusals = 2
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 3", "merge 1"]
    bench.machine.refusals = 4
    bench.keys = {"sft": "key-4", "merge": "key-5"}
    assert bench.run() is RunState.FAILED
    assert isinstance(bench.controller.failure, ClusterError)


def test_a_killed_driver_s_run_goes_on_with_the_next_attempt(bench: Bench) -> None:
    record = bench.open()
    record.move("sft", StageState.RUNNING, attempt=1, key="key-1")
    here = Driver.here()
    killed = record.status.model_copy(
        # This process's number, had by another one before.
        update={"driver": here.model_copy(update={"start_time": "0"})}
    )
    write_atomic(record.layout.status, killed.model_dump_json().encode())
    stop_request = record.layout.stage("sft").stop_request
    stop_request.parent.mkdir(parents=True)
    stop_request.touch()
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.status.run_id == record.status.run_id
    assert bench.record.status.driver == here
    assert bench.started == ["sft 2", "merge 1"]
    assert not stop_request.exists()


def _trains(until: threading.Event, finished: bool) -> Run:
    """A stage that tells progress and goes on until it is let go."""

    def run(context: StageContext) -> StageResult:
        context.attempt.worker_log(0).touch()
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


def test_the_first_stop_asks_for_a_checkpoint(bench: Bench) -> None:
    asked = threading.Event()
    bench.work(sft=_trains(asked, finished=False))
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
    assert bench.states() == [StageState.STOPPED, StageState.PENDING]
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


def test_what_stages_tell_is_recorded_and_shown(bench: Bench) -> None:
    def tell(context: StageContext) -> StageResult:
        context.note("12 rows")
        context.event("resumed", step=3, key="secret-word")
        return commits(context)

    bench.work(sft=tell)
    bench.run()
    assert "[sft] 12 rows" in bench.output.getvalue()
    assert "12 rows" in bench.contexts[0].attempt.driver_log.read_text()
    events = bench.record.layout.events.read_text()
    assert '"event": "resumed", "stage": "sft", "step": 3, "key": "***"' in events
