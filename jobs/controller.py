"""Walks a plan's stages and keeps the run's record.

It is a reconciler: it compares the plan with the record and does what is missing, a stage at a
time. Killed at any point and started again with the same plan, it goes on where the record stands:
a stage whose artifact is committed is not run again, and one that was running goes on from its
newest committed checkpoint. It alone writes the record.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.errors import ClusterError, DeadlinePassed, Interrupted, NodeLost, RaysmithError
from jobs.losses import Losses
from jobs.masking import Mask
from jobs.observed import utc_now, write_phase
from jobs.plan.inputs import with_datasets
from jobs.plan.resolve import Plan, StagePlan
from jobs.record import (
    Record,
    StageStatus,
    find_artifact,
    find_run,
    new_run_id,
    read_progress,
)
from jobs.state import FailureClass, RunState, StageState
from jobs.view.terminal import View
from storage.commit import read_committed
from storage.layout import Layout
from storage.manifest import Owner
from workloads import WORKLOADS, load_function
from workloads.check import Checked
from workloads.context import SharedCluster, StageContext, StageResult
from workloads.failures import Retries, classify
from workloads.process_log import log_file

_POLL_S = 0.2
_NOTICE_S = 15.0
_TELL_EVERY_S = 30.0
_LATEST_S = 120.0
"""How long after its deadline a stage may still be committing its checkpoint."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

log = logging.getLogger("raysmith")


@dataclass(frozen=True)
class Job:
    """What is to be run."""

    plan: Plan
    spec_text: str
    checked: Checked
    lock: Mapping[str, Any]
    mask: Mask


def open_record(job: Job, layout: Layout) -> Record:
    """The record of the run that this job goes on with, or of a new one.

    Raises:
        UserError: if another process is at this run.
    """
    name, digest = job.plan.name, job.checked.digest
    if found := find_run(layout, name, digest):
        record = Record.open(layout.run(name, found.run_id), mask=job.mask)
        record.resume()
        return record
    run_id = new_run_id(utc_now(), digest)
    return Record.create(
        layout.run(name, run_id),
        run_id=run_id,
        name=name,
        plan_json=job.plan.to_json(),
        spec_text=job.spec_text,
        lock=dict(job.lock),
        stages=tuple(StageStatus(name=s.name, kind=s.kind) for s in job.plan.stages),
        digest=digest,
        mask=job.mask,
    )


@dataclass
class Controller:
    """Runs one job to its end, its failure, or a request to stop."""

    job: Job
    record: Record
    layout: Layout
    cluster: SharedCluster
    view: View
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the work."""
    failure: BaseException | None = None
    """What the run failed with."""
    _stops: int = 0
    _deadline: float = inf
    """When the run must have ended, on the clock of `time.monotonic`."""

    def run(self) -> RunState:
        """Runs every stage that has no artifact yet. Returns how the run ended."""
        if self.job.plan.deadline_s is not None:
            self._deadline = time.monotonic() + self.job.plan.deadline_s
        with self._signals():
            state = RunState.SUCCEEDED
            for stage in self.job.plan.stages:
                if state is not RunState.SUCCEEDED:
                    # What an earlier run of the same plan left stays what it is.
                    if not self.record.status.stage(stage.name).state.has_artifact:
                        self._move(stage, StageState.SKIPPED)
                elif self._has_artifact(stage):
                    state = self._hold(stage)
                else:
                    state = self._run_stage(stage)
        self.record.finish(state)
        return state

    def _has_artifact(self, stage: StagePlan) -> bool:
        """Whether the stage need not run, since this run or an earlier one has its artifact."""
        status = self.record.status.stage(stage.name)
        done = status.state.has_artifact and status.artifact
        if done and read_committed(Path(done)):
            self.view.stage_changed(status)
            return True
        if status.state is not StageState.PENDING:
            self._move(stage, StageState.PENDING)
        key = self.job.checked.keys[stage.name]
        found = find_artifact(self.layout, self.job.plan.name, key)
        if found:
            self._move(stage, StageState.CACHED, key=key, artifact=str(found))
        return bool(found)

    def _hold(self, stage: StagePlan) -> RunState:
        """Whether an artifact that was there already is what the plan demands of it now."""
        hold, status = WORKLOADS[stage.kind].hold, self.record.status.stage(stage.name)
        try:
            if hold:
                load_function(hold)(stage, Path(status.artifact or ""))
        except RaysmithError as error:
            self.failure = error
            self._move(stage, StageState.PENDING)
            self._move(stage, StageState.FAILED, reason=classify(error), message=str(error))
            return RunState.FAILED
        return RunState.SUCCEEDED

    def _run_stage(self, stage: StagePlan) -> RunState:
        key = self.job.checked.keys[stage.name]
        retries = Retries()
        while True:
            attempt = self.record.status.stage(stage.name).attempt + 1
            self._move(stage, StageState.RUNNING, attempt=attempt, key=key)
            context = self._context(stage, attempt)
            outcome = self._attempt(context)
            if isinstance(outcome, StageResult) and (outcome.finished or self._stops):
                return self._ended(stage, outcome, context.artifact)
            if self._late and not self._stops:
                outcome = self._too_late()
            if isinstance(outcome, StageResult) or self._stops:
                return self._ended(stage, StageResult(finished=False), context.artifact)
            if not self._try_again(stage, outcome, retries):
                return RunState.FAILED

    def _try_again(self, stage: StagePlan, error: BaseException, retries: Retries) -> bool:
        """Records a failure; waits and returns true where its class allows another attempt."""
        kind = classify(error)
        wait_s = retries.wait_s(kind)
        reason = {"reason": kind, "message": str(error) or type(error).__name__}
        if wait_s is None:
            self.failure = error
            self._move(stage, StageState.FAILED, **reason)
            return False
        self.record.event("retry", stage.name, reason=kind, wait_s=wait_s)
        recoveries = self.record.status.stage(stage.name).recoveries + 1
        self._move(stage, StageState.RETRYING, **reason, recoveries=recoveries)
        time.sleep(wait_s)
        return True

    @property
    def _late(self) -> bool:
        return self._deadline < inf and time.monotonic() >= self._deadline

    def _too_late(self) -> DeadlinePassed:
        return DeadlinePassed(
            f"the run took longer than the {self.job.plan.deadline_s:g} s that the profile allows",
            "the same command goes on from the last checkpoint; or ask for a later deadline",
        )

    def _explained(self, error: BaseException) -> BaseException:
        """A failure with its cause, where that is a node that is gone."""
        kind = classify(error)
        if kind not in (FailureClass.INFRASTRUCTURE, FailureClass.UNKNOWN):
            return error
        # Workers may lose a peer some time before Ray finds its node dead.
        lost = self.cluster.lost_nodes(_NOTICE_S if kind is FailureClass.INFRASTRUCTURE else 0)
        if not lost:
            return error
        told = NodeLost(f"the cluster lost {', '.join(lost)}: {error}")
        told.__cause__ = error
        return told

    def _ended(self, stage: StagePlan, result: StageResult, artifact: Path) -> RunState:
        self.timings |= {f"{stage.name}.{key}": value for key, value in result.timings.items()}
        self.record.event("timings", stage.name, seconds=dict(result.timings))
        if result.finished:
            # A service leaves nothing behind, so that the same command serves again.
            left = None if stage.produces == "service" else str(artifact)
            self._move(stage, StageState.SUCCEEDED, artifact=left)
            return RunState.SUCCEEDED
        self._move(stage, StageState.STOPPED)
        return RunState.STOPPED

    def _context(self, stage: StagePlan, attempt: int) -> StageContext:
        run = self.record.layout
        layout = run.stage(stage.name)
        attempt_layout = layout.attempt(attempt)
        attempt_layout.folder.mkdir(parents=True, exist_ok=True)
        layout.stop_request.unlink(missing_ok=True)
        artifacts = {s.name: s.artifact for s in self.record.status.stages}
        inputs = {key: Path(artifacts[source] or "") for key, source in stage.inputs.items()}

        def event(kind: str, **fields: Any) -> None:
            self.record.event(kind, stage.name, **fields)

        def note(text: str) -> None:
            log.info(text)
            self.view.note(f"[{stage.name}] {text}")

        return StageContext(
            stage=with_datasets(stage, inputs),
            seed=self.job.plan.seed,
            base_folders=self.job.plan.base_folders,
            owner=Owner(
                self.record.status.run_id, stage.name, self.job.checked.keys[stage.name], attempt
            ),
            layout=layout,
            attempt=attempt_layout,
            artifact=run.artifact(stage.name),
            inputs=inputs,
            cluster=self.cluster,
            event=event,
            note=note,
        )

    def _attempt(self, context: StageContext) -> StageResult | BaseException:
        """Runs one attempt in a thread, so that this one can watch, tell, and take signals."""
        if self._stops:
            return StageResult(finished=False)
        try:
            # In this thread, since the kernel ends Ray's processes with the thread that began them.
            self.cluster.connect()
        except ClusterError as error:
            return error
        self._take_signals()
        outcomes: list[StageResult | BaseException] = []
        run = load_function(WORKLOADS[context.stage.kind].run)

        def target() -> None:
            try:
                with self._room(context):
                    outcomes.append(run(context))
            except BaseException as error:  # noqa: BLE001 - the caller sorts it
                log.error("".join(traceback.format_exception(error)))
                outcomes.append(self._explained(error))

        with log_file(context.attempt):
            thread = threading.Thread(target=target, name=context.stage.name, daemon=True)
            thread.start()
            asked, late, losses = 0, False, Losses(self.cluster.lost_nodes, context)
            while thread.is_alive():
                thread.join(_POLL_S)
                self._watch(context)
                losses.look()
                if self._stops > asked:
                    asked = self._stops
                    self._ask_to_stop(context)
                elif self._late and not late:
                    late = True
                    if not self._can_stop(context):
                        return self._too_late()
                    context.layout.stop_request.touch()
                    context.note("the deadline has passed; a checkpoint will be committed first")
                elif late and time.monotonic() > self._deadline + _LATEST_S:
                    return self._too_late()
        return outcomes[0]

    def _watch(self, context: StageContext) -> None:
        self.record.beat()
        progress = read_progress(context.attempt.progress_json)
        if progress:
            self.view.progress(context.stage.name, progress)

    def _ask_to_stop(self, context: StageContext) -> None:
        """First time: asks for a checkpoint, or a service to finish. Otherwise ends at once.

        Raises:
            Interrupted: if there is nothing to save, or no wish to.
        """
        serves = context.attempt.service_json.exists()
        if self._stops > 1 or not self._can_stop(context):
            self._move(context.stage, StageState.STOPPED)
            self.record.finish(RunState.STOPPED)
            raise Interrupted("stopped at once", "the same command goes on where this was")
        context.layout.stop_request.touch()
        first = "what is being answered will end" if serves else "a checkpoint will be committed"
        self.view.note(f"stopping: {first} first; once more to end at once")

    @staticmethod
    def _can_stop(context: StageContext) -> bool:
        """Whether the stage has anything to save, or to finish, before it ends."""
        attempt = context.attempt
        trains = attempt.worker_log(0).exists() or context.layout.trials_jsonl.exists()
        return trains or attempt.service_json.exists()

    @contextmanager
    def _room(self, context: StageContext) -> Iterator[None]:
        """Waits for the stage's place on the cluster, and tells of it what is waited for."""
        began, told_at, told = time.monotonic(), 0.0, ""

        def tell(reason: str) -> None:
            nonlocal told_at, told
            text, now = f"waiting for {reason}", time.monotonic()
            write_phase(context.attempt.progress_json, text)
            if reason != told or now - told_at >= _TELL_EVERY_S:
                context.event("waiting", reason=reason, waited_s=round(now - began, 1))
                context.note(text)
                told, told_at = reason, now

        owner = f"{self.job.plan.name}/{context.owner.run_id} {context.stage.name}"
        with self.cluster.room(context.stage, owner, tell):
            if told:
                waited_s = round(time.monotonic() - began, 1)
                context.event("placed", waited_s=waited_s)
                context.note(f"there is room, after {waited_s:g} s")
            yield

    def _move(self, stage: StagePlan, state: StageState, **changes: Any) -> None:
        self.view.stage_changed(self.record.move(stage.name, state, **changes))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._take_signals()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take_signals(self) -> None:
        """Counts requests to stop. Taken again after Ray has started, which takes SIGTERM."""

        def count(_signal: int, _frame: FrameType | None) -> None:
            self._stops += 1

        for number in _SIGNALS:
            signal.signal(number, count)
