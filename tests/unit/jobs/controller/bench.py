"""A controller on a bench: stages that do as a test says, and a machine that does nothing."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from jobs.controller import Controller, Job, open_record
from jobs.errors import ClusterError
from jobs.load.loader import load
from jobs.masking import masker
from jobs.observed import Progress, RunStatus, read_status
from jobs.plan.resolve import StagePlan, resolve
from jobs.record import Record, StageStatus
from jobs.spec.notify import Occasion
from jobs.state import RunState, StageState
from jobs.stopping import ask_to_stop
from jobs.view.terminal import PlainView
from storage.commit import begin, commit
from storage.layout import Layout
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
        self.waits: list[str] = []
        self.lost: tuple[str, ...] = ()
        self.blind: tuple[str, ...] = ()

    @contextmanager
    def room(self, stage: StagePlan, owner: str, tell: Callable[[str], None]) -> Iterator[None]:
        while self.waits:
            tell(self.waits.pop(0))
        yield

    def lost_nodes(self, owner: str, wait_s: float = 0) -> tuple[str, ...]:
        return self.lost

    def nodes_without(self, folder: Path) -> tuple[str, ...]:
        assert folder.is_dir()
        return self.blind

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
        self.told: list[tuple[str, RunState, str | None]] = []
        self.forced: tuple[str, ...] = ()
        self.new = False
        self.run_id: str | None = None
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
        self.controller = Controller(
            self._job(), self.record, self.layout, self.machine, self.view, self.tell
        )
        return self.controller.run()

    def tell(self, occasion: Occasion, status: RunStatus, stage: str | None = None) -> None:
        """Notes what would be told."""
        self.told.append((occasion, status.state, stage))

    def ask_to_stop(self, *, now: bool = False) -> int:
        """Asks as `raysmith stop` does, from elsewhere."""
        return ask_to_stop(self.record.layout, read_status(self.record.layout), now=now)

    def _job(self) -> Job:
        checked = Checked(self.keys, (), {})
        return Job(
            self.plan,
            SPEC,
            checked,
            {},
            masker(["TOKEN"], {"TOKEN": "secret-word"}),
            self.forced,
            self.new,
            self.run_id,
        )

    def status(self, stage: str) -> StageStatus:
        """What the record on disk says of a stage."""
        return read_status(self.record.layout).stage(stage)

    def states(self) -> list[StageState]:
        return [self.status(name).state for name in self.keys]
