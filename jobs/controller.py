"""Walks a plan's stages and keeps the run's record.

It is a reconciler: it compares the plan with the record and does what is missing. Stages whose
inputs are there run at the same time where there is room for them, each in a thread of its own (see
`jobs.stage_run`), while this one watches, takes signals, and alone moves stages in the record.
Killed at any point and started again with the same plan, it goes on where the record stands: a
stage whose artifact is committed is not run again, and one that was running goes on from its newest
committed checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from threading import Event
from typing import Any

from jobs.attempt import Desk
from jobs.errors import DeadlinePassed, Interrupted, RaysmithError, StorageRefused, UserError
from jobs.masking import Mask
from jobs.notify import Tell, tell_nobody
from jobs.observed import Driver, RunStatus, is_live, read_status, utc_now
from jobs.plan.resolve import Plan, StagePlan
from jobs.record import Record, StageStatus, new_run_id
from jobs.runs import find_artifact, find_run, goes_on
from jobs.stage_run import StageRun
from jobs.state import RunState, StageState
from jobs.stopping import GRACEFUL, NOW, StopRequests
from jobs.view.terminal import View
from storage.committed import present, read_committed
from storage.layout import Layout, RunLayout
from storage.working_copy import here
from workloads import WORKLOADS, load_function
from workloads.check import Checked
from workloads.context import SharedCluster
from workloads.failures import classify, refusal

_POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    plan: Plan
    spec_text: str
    checked: Checked
    lock: Mapping[str, Any]
    mask: Mask
    forced: tuple[str, ...] = ()
    """The stages that take nothing from earlier runs."""
    new: bool = False
    """Whether a run of its own is wanted although there is one to go on with."""
    run_id: str | None = None
    """The run to go on with; else the newest that would do the same."""


def at_work(job: Job, layout: Layout) -> RunLayout | None:
    """The run that this job would go on with, where another process is at it."""
    found = _earlier(job, layout)
    if found and is_live(found) and found.driver != Driver.here():
        return layout.run(job.plan.name, found.run_id)
    return None


def open_record(job: Job, layout: Layout) -> Record:
    """The record of the run that this job goes on with, or of a new one.

    Raises:
        UserError: if another process is at this run.
    """
    name, digest = job.plan.name, job.checked.digest
    if found := _earlier(job, layout):
        record = Record.open(layout.run(name, found.run_id), mask=job.mask)
        record.resume()
        return record
    run_id = _free_id(layout, name, new_run_id(utc_now(), digest))
    return Record.create(
        layout.run(name, run_id),
        run_id=run_id,
        name=name,
        plan_json=job.plan.to_json(),
        spec_text=job.spec_text,
        lock=dict(job.lock),
        stages=tuple(StageStatus(name=s.name, kind=s.kind) for s in job.plan.stages),
        digest=digest,
        forced=job.forced,
        mask=job.mask,
    )


def _earlier(job: Job, layout: Layout) -> RunStatus | None:
    """The run that this job goes on with.

    Raises:
        UserError: it is named, and does something else now than it did.
    """
    name, digest = job.plan.name, job.checked.digest
    if job.run_id:
        named = read_status(layout.run(name, job.run_id))
        if named.digest != digest:
            raise _changed(named, job.checked)
        return named
    found = None if job.new else find_run(layout, name, digest)
    return found if found and goes_on(found, job.forced) else None


def _changed(status: RunStatus, checked: Checked) -> UserError:
    keys = {stage.name: stage.key for stage in status.stages if stage.key}
    other = [name for name, key in checked.keys.items() if keys.get(name, key) != key]
    what = f"what stage {other[0]} works on" if other else "what its stages work on"
    return UserError(
        f"run {status.full_name} can't go on: {what} has changed since it began",
        "put the data, the models and raysmith back to what they were, or start a run of the spec",
    )


def _free_id(layout: Layout, name: str, run_id: str) -> str:
    """The id, with a number behind it where a run of the same second has it."""
    number, free = 1, run_id
    while layout.run(name, free).folder.exists():
        number += 1
        free = f"{run_id}-{number}"
    return free


@dataclass
class Controller:
    """Runs one job to its end, its failure, or a request to stop."""

    job: Job
    record: Record
    layout: Layout
    cluster: SharedCluster
    view: View
    tell: Tell = tell_nobody
    """Tells whoever wants to know what becomes of the run."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the work."""
    failure: BaseException | None = None
    """What failed first."""
    _done: dict[str, bool] = field(default_factory=dict)
    """The stages that have ended, and whether what they leave is there."""
    _to_run: set[str] = field(default_factory=set)
    """The stages that were looked at and have no artifact yet."""
    _at_work: dict[str, StageRun] = field(default_factory=dict)
    _asked: int = 0
    """How many requests to stop have been passed on."""
    _cut_off: bool = False
    _deadline: float = inf
    """When the run must have ended, on the clock of `time.monotonic`."""

    def run(self) -> RunState:
        """Runs every stage that has no artifact yet. Returns how the run ended.

        A stage that failed keeps those from running that need it; the others go on to their end.

        Raises:
            Interrupted: if it was stopped with work in hand.
            StorageRefused: if the record can't be written.
        """
        try:
            return self._run()
        except OSError as error:
            refused, folder = refusal(error), str(self.record.layout.folder)
            if not refused:
                raise
            where = "" if folder in refused.message else f"; the run lies in {folder}"
            raise StorageRefused(f"{refused.message}{where}", refused.remedy) from error

    def _run(self) -> RunState:
        if self.job.plan.deadline_s is not None:
            self._deadline = time.monotonic() + self.job.plan.deadline_s
        with self._stop_requests.taken():
            while self._step():
                self._news.wait(_POLL_S)
                self._news.clear()
        state = self._state()
        for stage in self.job.plan.stages:
            if stage.name not in self._done:
                self._skip(stage)
        self.record.finish(state)
        if state is RunState.SUCCEEDED:
            self.tell("succeeded", self.record.status)
        elif state is RunState.FAILED:
            self.tell("failed", self.record.status)
        if self._asked and self._cut_off:
            raise Interrupted("stopped at once", "the same command goes on where this was")
        return state

    def _step(self) -> bool:
        """Does what is due. Returns whether there is more to do."""
        self._pass_on_requests()
        if not self._asked:
            if time.monotonic() >= self._deadline:
                self._end_late()
            else:
                self._start_what_can()
        for name, run in list(self._at_work.items()):
            run.look()
            if run.is_over:
                del self._at_work[name]
                self._take(run)
        self.record.beat()
        return bool(self._at_work) or (not self._asked and any(self._ready()))

    def _pass_on_requests(self) -> None:
        asked = min(self._stop_requests.times, NOW)
        if asked <= self._asked:
            return
        self._asked = asked
        serves = any(run.serves for run in self._at_work.values())
        for run in self._at_work.values():
            run.stop(at_once=asked > GRACEFUL)
        if any(not run.is_over for run in self._at_work.values()):
            first = (
                "what is being answered will end" if serves else "a checkpoint will be committed"
            )
            self.view.note(f"stopping: {first} first; once more to end at once")

    def _end_late(self) -> None:
        """Ends what is at work, and fails what could begin now, since there is no time left."""
        error = DeadlinePassed(
            f"the run took longer than the {self.job.plan.deadline_s:g} s that the profile allows",
            "the same command goes on from the last checkpoint; or ask for a later deadline",
        )
        for run in self._at_work.values():
            run.end_late(error)
        for stage in list(self._ready()):
            if not self._is_there(stage):
                self._refuse(stage, error)

    def _start_what_can(self) -> None:
        for stage in self._ready():
            if not self._is_there(stage) and self._may_start(stage):
                self._at_work[stage.name] = StageRun(stage, self._desk)

    def _ready(self) -> Iterator[StagePlan]:
        """The stages that have not begun and whose inputs are there, in the plan's order."""
        for stage in self.job.plan.stages:
            if stage.name in self._done or stage.name in self._at_work:
                continue
            needs = [self._done.get(name) for name in stage.needs]
            if any(need is False for need in needs):
                self._skip(stage)
            elif all(needs):
                yield stage

    def _is_there(self, stage: StagePlan) -> bool:
        """Whether the stage needs no run, or must not have one; looked at once."""
        if stage.name not in self._to_run:
            if self._has_artifact(stage):
                self._hold(stage)
            else:
                self._to_run.add(stage.name)
        return stage.name in self._done

    def _may_start(self, stage: StagePlan) -> bool:
        """Whether the stage may run beside those at work; the cluster sees to the room."""
        if stage.produces == "service":
            # It runs until it is stopped, in room that others may wait for.
            return all(name in self._done for name in self._before_services)
        kinds = [run.stage.kind for run in self._at_work.values()]
        if any(WORKLOADS[kind].exclusive for kind in kinds):
            return False
        return not (WORKLOADS[stage.kind].exclusive and kinds)

    @cached_property
    def _before_services(self) -> set[str]:
        """The stages that neither serve nor come after one that does."""
        after: set[str] = set()
        for stage in self.job.plan.stages:
            if stage.produces == "service" or after & set(stage.needs):
                after.add(stage.name)
        return {stage.name for stage in self.job.plan.stages} - after

    def _take(self, run: StageRun) -> None:
        """Takes note of how a stage ended."""
        name = run.stage.name
        self.timings |= {f"{name}.{key}": value for key, value in run.timings.items()}
        self._cut_off = self._cut_off or run.cut_off
        self.failure = self.failure or run.failure
        self._done[name] = self.record.status.stage(name).state.has_artifact

    def _has_artifact(self, stage: StagePlan) -> bool:
        """Whether the stage need not run, since this run or an earlier one has its artifact."""
        status = self.record.status.stage(stage.name)
        done = status.state.has_artifact and status.artifact
        if done and read_committed(here(Path(done))):
            self.view.stage_changed(status)
            return True
        if status.state is not StageState.PENDING:
            self._move(stage, StageState.PENDING)
        key = self.job.checked.keys[stage.name]
        forced = stage.name in self.record.status.forced
        found = None if forced else find_artifact(self.layout, key)
        if found:
            self._move(stage, StageState.CACHED, key=key, artifact=str(found))
        return bool(found)

    def _hold(self, stage: StagePlan) -> None:
        """Looks whether an artifact that was there already is what the plan demands of it now."""
        hold, status = WORKLOADS[stage.kind].hold, self.record.status.stage(stage.name)
        try:
            if hold:
                load_function(hold)(stage, present(Path(status.artifact or "")))
        except RaysmithError as error:
            self._move(stage, StageState.PENDING)
            self._refuse(stage, error)
        else:
            self._done[stage.name] = True

    def _refuse(self, stage: StagePlan, error: RaysmithError) -> None:
        """Fails a stage that has not begun."""
        self.failure = self.failure or error
        self._done[stage.name] = False
        self._move(stage, StageState.FAILED, reason=classify(error), message=str(error))

    def _skip(self, stage: StagePlan) -> None:
        self._done[stage.name] = False
        state = self.record.status.stage(stage.name).state
        # What an earlier run of the same plan left stays what it is.
        if state.has_artifact or state is StageState.SKIPPED:
            return
        if state is not StageState.PENDING:
            self._move(stage, StageState.PENDING)
        self._move(stage, StageState.SKIPPED)

    def _state(self) -> RunState:
        if self.failure:
            return RunState.FAILED
        ended = [self._done.get(stage.name, False) for stage in self.job.plan.stages]
        return RunState.SUCCEEDED if all(ended) else RunState.STOPPED

    def _move(self, stage: StagePlan, state: StageState, **changes: Any) -> None:
        self._desk.move(stage, state, **changes)

    @cached_property
    def _desk(self) -> Desk:
        return Desk(
            plan=self.job.plan,
            checked=self.job.checked,
            record=self.record,
            cluster=self.cluster,
            view=self.view,
            connect=self._connect,
            news=self._news,
            tell=self.tell,
        )

    @cached_property
    def _news(self) -> Event:
        return Event()

    @cached_property
    def _stop_requests(self) -> StopRequests:
        return StopRequests(self.record.layout)

    def _connect(self) -> None:
        # In this thread, since the kernel ends Ray's processes with the thread that began them.
        self.cluster.connect()
        self._stop_requests.take_signals()
