"""The run's record: what the controller observed, in the run's folder, and how runs are found.

`status.json` says how things stand and is replaced whole; `events.jsonl` says what happened and
only grows. One process writes them, the run's driver. Everybody else reads them, so that status
and logs work from storage alone, while the run goes on and after it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue

from jobs.errors import RaysmithError, StorageError, UserError
from jobs.masking import Mask, masked, masker
from jobs.observed import (
    Clock,
    Driver,
    Progress,
    RunStatus,
    StageStatus,
    entry_of,
    is_live,
    read_progress,
    read_status,
    refresh,
    status_of,
    timestamp,
    utc_now,
    write_progress,
)
from jobs.state import RunState, StageState, allowed
from storage.backend import MissingKey
from storage.durable import write_atomic
from storage.fenced import FencedFile, FencedOut
from storage.index import ArtifactEntry, Index
from storage.layout import RunLayout
from storage.mirror import push_file

__all__ = [
    "Clock",
    "Driver",
    "Progress",
    "Record",
    "RunStatus",
    "StageStatus",
    "is_live",
    "new_run_id",
    "read_progress",
    "read_status",
    "write_progress",
]

BEAT_EVERY = timedelta(seconds=10)
"""How often `Record.beat` renews the status."""

_LISTED_RUNS = 5


log = logging.getLogger("raysmith")


class Record:
    """Writes the record of one run. `mask` is applied to all text that comes from outside.

    Every method that writes the status raises `FencedOut` when another process has taken the run
    over; this one must then stop.
    """

    def __init__(
        self, layout: RunLayout, file: FencedFile, status: RunStatus, *, now: Clock, mask: Mask
    ) -> None:
        self.layout = layout
        self._file = file
        self._status = status
        self._index = Index(layout.root)
        self._now = now
        self._beaten_at = datetime.min.replace(tzinfo=UTC)
        self._mask = mask

    @classmethod
    def create(
        cls,
        layout: RunLayout,
        *,
        run_id: str,
        name: str,
        plan_json: str,
        spec_text: str,
        lock: Mapping[str, JsonValue],
        stages: tuple[StageStatus, ...],
        digest: str,
        forced: tuple[str, ...] = (),
        now: Clock = utc_now,
        mask: Mask | None = None,
    ) -> Record:
        """Starts the record of a new run, driven by this process. The status is written last.

        Raises:
            RaysmithError: the run's folder exists already.
        """
        mask = mask or masker((), {})
        moment = timestamp(now())
        status = RunStatus(
            run_id=run_id,
            name=name,
            state=RunState.RUNNING,
            digest=digest,
            stages=stages,
            created_at=moment,
            changed_at=moment,
            updated_at=moment,
            driver=Driver.here(),
            forced=forced,
        )
        _make_folder(layout)
        write_atomic(layout.spec, mask(spec_text).encode())
        write_atomic(layout.plan, mask(plan_json).encode())
        write_atomic(layout.lock, _json(masked(dict(lock), mask)))
        record = cls(layout, FencedFile(layout.status), status, now=now, mask=mask)
        record.event("run_created", run_id=run_id)
        record._index.put(entry_of(status))
        if not record._file.create(_status_json(status)):
            raise _exists(layout)
        return record

    @classmethod
    def open(cls, layout: RunLayout, *, now: Clock = utc_now, mask: Mask | None = None) -> Record:
        """The record of an earlier run, unchanged; `resume` takes it over.

        Raises:
            UserError: there is no readable record.
        """
        file = FencedFile(layout.status)
        try:
            status = status_of(layout, file.read())
        except MissingKey:
            status = read_status(layout)
        refresh(layout)
        return cls(layout, file, status, now=now, mask=mask or masker((), {}))

    @property
    def status(self) -> RunStatus:
        """What was written last."""
        return self._status

    def resume(self) -> None:
        """Makes this process the driver of the run, whatever the run's state.

        Raises:
            UserError: another process that is alive drives it.
        """
        here, driver = Driver.here(), self._status.driver
        if driver and driver != here and is_live(self._status, self._now):
            raise UserError(
                f"run {self._status.full_name} is being driven by process "
                f"{driver.pid} on {driver.host}",
                remedy="watch it with `raysmith logs --follow`, or stop that process first",
            )
        try:
            self._enter(RunState.RUNNING, driver=here, message=None)
        except FencedOut as error:
            raise UserError(
                f"another process has just taken up run {self._status.full_name}",
                remedy="watch it with `raysmith logs --follow`",
            ) from error
        self.event("run_resumed", host=here.host, pid=here.pid)

    def move(self, stage: str, state: StageState, **changes: Any) -> StageStatus:
        """Moves a stage to `state` and sets other fields of its status; returns the new status.

        Start and end times follow from the state. A stage that starts, or is to start, loses its
        reason and message.

        Raises:
            KeyError: the run has no such stage.
            ValueError: the transition is not allowed, or a value has the wrong type.
            TypeError: `changes` names a field that does not exist.
        """
        old = self._status.stage(stage)
        if not allowed(old.state, state):
            raise ValueError(f"stage {stage} cannot move from {old.state} to {state}")
        if unknown := changes.keys() - StageStatus.model_fields.keys():
            raise TypeError(f"a stage's status has no {', '.join(sorted(unknown))}")
        implied = _implied(old, state, timestamp(self._now()))
        if changes.get("message"):
            changes["message"] = self._mask(changes["message"])
        self._file.check()
        new = StageStatus.model_validate({**old.model_dump(), **implied, **changes, "state": state})
        self.event(
            "stage", stage, **{"state": state.value, "attempt": new.attempt, **_plain(changes)}
        )
        if new.state is StageState.SUCCEEDED and new.artifact and new.key:
            entry = ArtifactEntry(self._status.run_id, self._status.name, stage)
            self._index.put_artifact(new.key, entry)
        self._change(stages=tuple(new if s.name == stage else s for s in self._status.stages))
        return new

    def event(self, kind: str, stage: str | None = None, **fields: JsonValue) -> None:
        """Appends one line to the run's events."""
        head: dict[str, JsonValue] = {"time": timestamp(self._now()), "event": kind}
        if stage is not None:
            head["stage"] = stage
        line = json.dumps({**head, **masked(fields, self._mask)}, ensure_ascii=False) + "\n"
        # One write to a file opened for appending is not torn by a kill, nor by another writer.
        descriptor = os.open(self.layout.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def beat(self) -> None:
        """Renews the status's time, at most every 10 s: to other hosts, the sign of life.

        Where storage fails, work goes on: what it commits meets the failure by itself.
        """
        renewed_at = max(datetime.fromisoformat(self._status.updated_at), self._beaten_at)
        if self._now() - renewed_at >= BEAT_EVERY:
            self._beaten_at = self._now()
            try:
                self._change()
            except StorageError as error:
                log.warning("the status can't be renewed: %s", error)

    def is_ours(self) -> bool:
        """Whether this process is still the one that writes the record."""
        return self._file.is_known()

    def finish(self, state: RunState, message: str | None = None) -> None:
        """Writes how the run ended.

        The event comes first and is written once: where a driver died after it, or the run had
        ended already and there was nothing to do, it is there.
        """
        self._file.check()
        text = self._mask(message) if message else None
        if not self._ended_so(state, text):
            self.event("run_finished", state=state.value, message=text)
            push_file(self.layout.events)
        self._enter(state, message=text)

    def _ended_so(self, state: RunState, message: str | None) -> bool:
        """Whether this end is the last event, but for drivers that have taken the run up since."""
        if not self.layout.events.exists():
            return False
        for line in reversed(self.layout.events.read_bytes().splitlines()):
            try:
                event = json.loads(line)
            except ValueError:
                continue  # A machine that lost its power may leave half a line.
            if event["event"] != "run_resumed":
                end = ("run_finished", state.value, message)
                return (event["event"], event.get("state"), event.get("message")) == end
        return False

    def _enter(self, state: RunState, **changes: Any) -> None:
        """Changes the run's state, and tells the index."""
        before = entry_of(self._status)
        changes |= {"state": state, "changed_at": timestamp(self._now())}
        self._index.put(entry_of(self._status.model_copy(update=changes)))
        self._change(**changes)
        if before != entry_of(self._status):
            self._index.remove(before)

    def _change(self, **changes: Any) -> None:
        self._write(
            self._status.model_copy(update={**changes, "updated_at": timestamp(self._now())})
        )

    def _write(self, status: RunStatus) -> None:
        self._file.write(_status_json(status))
        self._status = status


def new_run_id(now: datetime, digest: str) -> str:
    """A run id that sorts by time and tells plans apart: `20261122-103200-ab12cd`."""
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{digest[:6]}"


def _make_folder(layout: RunLayout) -> None:
    try:
        layout.folder.mkdir(parents=True)
    except FileExistsError as error:
        raise _exists(layout) from error
    except OSError as error:
        raise UserError(
            f"the run folder {layout.folder} can't be made: {error.strerror}",
            remedy="give a folder that can be written: --storage FOLDER",
        ) from error


def _exists(layout: RunLayout) -> RaysmithError:
    return RaysmithError(
        f"the run folder {layout.folder} exists already",
        remedy="start the same command again: it takes the next free run id",
    )


def _status_json(status: RunStatus) -> bytes:
    return status.model_dump_json(indent=2).encode() + b"\n"


def _implied(old: StageStatus, state: StageState, moment: str) -> dict[str, str | None]:
    """The fields that follow from a transition."""
    if state is StageState.PENDING:
        return dict.fromkeys(("started_at", "ended_at", "reason", "message"))
    if state is StageState.RUNNING:
        begun = {"started_at": moment, "ended_at": None, "reason": None, "message": None}
        if old.state is not StageState.RETRYING:
            return begun | dict.fromkeys(("retry_reason", "retry_message"))
        # Why it is tried again stays known while it runs.
        again = {"retry_reason": old.reason, "retry_message": old.message}
        return begun | again | {"started_at": old.started_at}
    return {"ended_at": moment} if state.is_final else {}


def _plain(changes: Mapping[str, Any]) -> dict[str, JsonValue]:
    return {
        key: value if isinstance(value, int | float | None) else str(value)
        for key, value in changes.items()
    }


def _json(value: JsonValue) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
