"""One stage at work: its attempts, one after another, and the waits between them.

Everything here is called from the controller's thread, which looks at all stages that are at work
again and again, and never waits for one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jobs.attempt import Attempt, Desk, Outcome
from jobs.errors import ClusterError, DeadlinePassed, Stalled
from jobs.observed import read_progress
from jobs.plan.memory_advice import advice
from jobs.plan.resolve import StagePlan
from jobs.state import FailureClass, StageState
from storage.commit import discard
from storage.committed import read_committed, read_owner
from storage.manifest import Owner
from workloads.advance import committed
from workloads.context import StageContext, StageResult
from workloads.failures import Retries, classify, told

_LATEST_S = 120.0
"""How long after the deadline a stage may still be committing its checkpoint."""


class StageRun:
    """Runs one stage to its end, its failure, or a request to stop."""

    def __init__(self, stage: StagePlan, desk: Desk) -> None:
        self.stage = stage
        self.is_over = False
        """Whether the stage has been moved to its last state."""
        self.cut_off = False
        """Whether it was ended with work in hand."""
        self.failure: BaseException | None = None
        self.timings: Mapping[str, float] = {}
        self._desk = desk
        done = committed(desk.record.layout.stage(stage.name))
        self._retries = Retries(stage.spec.retry, done)
        self._attempt: Attempt | None = None
        self._next_at = 0.0
        self._stops = False
        self._late: DeadlinePassed | None = None
        self._latest = 0.0
        self._begin()

    def look(self) -> None:
        """Does what is due: takes what an attempt came to, or begins the next one."""
        attempt, now = self._attempt, time.monotonic()
        if self.is_over:
            return
        if attempt is None:
            if now >= self._next_at:
                self._begin()
        elif attempt.outcome is not None:
            self._attempt = None
            self._take(attempt.context, attempt.outcome)
        elif self._late and now >= self._latest:
            self._fail(self._late)
        else:
            self._watch(attempt)

    def stop(self, *, at_once: bool) -> None:
        """Asks for a checkpoint, or a service to finish; ends where there is nothing to save."""
        attempt = self._attempt
        if self.is_over:
            return
        self._stops = True
        if attempt and attempt.outcome is not None:
            return  # It has just ended by itself, which `look` takes.
        if attempt and not at_once and attempt.can_stop:
            attempt.context.layout.stop_request.touch()
            return
        self._let_go()
        self._desk.move(self.stage, StageState.STOPPED)

    def end_late(self, error: DeadlinePassed) -> None:
        """As `stop`, but the stage fails with the deadline."""
        attempt = self._attempt
        if self.is_over or self._late:
            return
        self._late, self._latest = error, time.monotonic() + _LATEST_S
        if attempt and attempt.outcome is not None:
            return
        if attempt and attempt.can_stop:
            attempt.context.layout.stop_request.touch()
            attempt.context.note("the deadline has passed; a checkpoint will be committed first")
        else:
            self._fail(error)

    @property
    def serves(self) -> bool:
        """Whether the stage answers requests now."""
        return bool(self._attempt and self._attempt.context.attempt.service_json.exists())

    def _begin(self) -> None:
        status = self._desk.record.status.stage(self.stage.name)
        key = self._desk.checked.keys[self.stage.name]
        number = status.attempt + 1
        self._desk.move(self.stage, StageState.RUNNING, attempt=number, key=key)
        owner = Owner(self._desk.record.status.run_id, self.stage.name, key, number)
        attempt = Attempt(self.stage, owner, self._desk)
        try:
            self._desk.connect()
        except ClusterError as error:
            self._take(attempt.context, error)
            return
        self._attempt = attempt
        attempt.start()

    def _watch(self, attempt: Attempt) -> None:
        if progress := read_progress(attempt.context.attempt.progress_json):
            self._desk.view.progress(self.stage.name, progress)
        if not attempt.watch.look():
            # Nothing ends its thread; so it is not tried again beside it.
            self._fail(attempt.watch.stalled or Stalled("its workers can't be ended"))

    def _take(self, context: StageContext, outcome: Outcome) -> None:
        """Moves the stage by what an attempt came to."""
        if isinstance(outcome, StageResult) and (outcome.finished or self._stops or not self._late):
            self._end(outcome, context.artifact)
        elif self._stops:
            self._end(StageResult(finished=False), context.artifact)
        elif self._late:
            self._fail(self._late)
        else:
            assert isinstance(outcome, BaseException)
            self._try_again(context, outcome)

    def _try_again(self, context: StageContext, error: BaseException) -> None:
        kind = classify(error)
        if kind is FailureClass.STORAGE:
            _discard_torn(context)
        wait_s = self._retries.wait_s(kind, committed(context.layout))
        if wait_s is None:
            self._fail(error)
            return
        record = self._desk.record
        record.event("retry", self.stage.name, reason=kind, wait_s=wait_s)
        recoveries = record.status.stage(self.stage.name).recoveries + 1
        message = self._message(error, kind)
        reason = {"reason": kind, "message": message, "recoveries": recoveries}
        self._desk.move(self.stage, StageState.RETRYING, **reason)
        self._tell_of(kind)
        self._next_at = time.monotonic() + wait_s

    def _fail(self, error: BaseException) -> None:
        self._let_go()
        self.failure, kind = error, classify(error)
        message = self._message(error, kind)
        self._desk.move(self.stage, StageState.FAILED, reason=kind, message=message)
        self._tell_of(kind)

    def _message(self, error: BaseException, kind: FailureClass) -> str:
        text, folder = told(error, kind), str(self._desk.record.layout.folder)
        if kind is FailureClass.STORAGE and folder not in text:
            return f"{text}\n  the run lies in {folder}"
        if kind not in (FailureClass.DEVICE_OUT_OF_MEMORY, FailureClass.HOST_OUT_OF_MEMORY):
            return text
        name, record = self.stage.name, self._desk.record
        attempt = record.layout.stage(name).attempt(record.status.stage(name).attempt)
        measured = _memory_bytes(attempt.logging_jsonl)
        more = advice(name, self.stage.spec, self._desk.checked.memory.get(name), measured)
        return f"{text}\n{more}"

    def _tell_of(self, kind: FailureClass) -> None:
        if kind is FailureClass.STALLED:
            self._desk.tell("stalled", self._desk.record.status, self.stage.name)

    def _end(self, result: StageResult, artifact: Path) -> None:
        self.is_over = True
        self.timings = result.timings
        self._desk.record.event("timings", self.stage.name, seconds=dict(result.timings))
        if result.finished:
            # A service leaves nothing behind, so that the same command serves again.
            left = None if self.stage.produces == "service" else str(artifact)
            self._desk.move(self.stage, StageState.SUCCEEDED, artifact=left)
        else:
            self._desk.move(self.stage, StageState.STOPPED)

    def _let_go(self) -> None:
        """Ends the stage's work here; its thread, where there is one, ends with the process."""
        self.is_over = True
        if self._attempt:
            self.cut_off = True
            self._attempt.let_go()
            self._attempt = None


def _memory_bytes(records: Path) -> float | None:
    """The most memory that training has recorded; None where it has recorded nothing."""
    try:
        last = json.loads(records.read_text().splitlines()[-1])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    gib = last.get("memory_gib")
    return gib * 2**30 if gib else None


def _discard_torn(context: StageContext) -> None:
    """Deletes the stage's checkpoints that were not committed: that makes room on a full disk."""
    for folder in context.layout.checkpoints():
        with suppress(OSError):
            owner = read_owner(folder)
            if owner and owner.same_stage(context.owner) and not read_committed(folder):
                discard(folder)
