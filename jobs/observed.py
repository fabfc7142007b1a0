"""How runs and their stages stand, as values; and how they are read from storage.

Reading is lenient: a record written by another version of raysmith may have more or fewer keys.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import UserError
from jobs.state import FailureClass, RunState, StageState
from storage.durable import write_atomic
from storage.index import RunEntry
from storage.layout import RunLayout, run_of
from storage.mirror import pull, pull_file
from storage.working_copy import place_of

Clock = Callable[[], datetime]
"""Tells the time; the datetime has a zone."""

_SILENT_AFTER = timedelta(seconds=60)


def utc_now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """A time as records write it: ISO 8601 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Recorded):
    """What a training worker last said of its work; any of it may be missing."""

    phase: str | None = None
    """What it is doing, in words: `loading the model`."""
    step: int | None = None
    max_steps: int | None = None
    unit: str | None = None
    """What is counted where it is no steps, such as `rows`."""
    rows_per_second: float | None = None
    epoch: float | None = None
    loss: float | None = None
    reward: float | None = None
    """The mean reward, where there are rewards."""
    tokens_per_second: float | None = None
    remaining_s: float | None = None
    table: tuple[tuple[str, ...], ...] = ()
    """Rows of text that say more, the first of them the names of the columns."""
    updated_at: str | None = None

    @property
    def share(self) -> float | None:
        """The part of the steps that is done, from 0 to 1."""
        if self.step is None or not self.max_steps:
            return None
        return min(1.0, self.step / self.max_steps)


class Service(_Recorded):
    """What a serve stage says of its service once it answers."""

    url: str
    """Such as `http://127.0.0.1:8000`."""
    models: tuple[str, ...] = ()
    authenticated: bool = False
    """Whether it wants an API key."""


class StageStatus(_Recorded):
    """Where one stage of a run stands. Times are ISO 8601 in UTC."""

    name: str
    kind: str
    state: StageState = StageState.PENDING
    attempt: int = 0
    """The newest attempt, numbered from 1; 0 before the first."""
    key: str | None = None
    """The stage's cache key."""
    artifact: str | None = None
    """The artifact's folder, in an earlier run when the state is cached."""
    reason: FailureClass | None = None
    message: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    recoveries: int = 0
    """How often it was tried again by itself."""
    retry_reason: FailureClass | None = None
    """Why the attempt before the newest one failed, where it was tried again by itself."""
    retry_message: str | None = None

    @property
    def origin(self) -> str | None:
        """The run that an artifact from the cache comes from: `name/run_id`."""
        if self.state is not StageState.CACHED or not self.artifact:
            return None
        return run_of(Path(self.artifact)).full_name


class Driver(_Recorded):
    """The process that drives a run, or trains in it."""

    host: str
    pid: int
    start_time: str | None = None
    """Tells the process from a later one with the same number."""

    @classmethod
    def here(cls) -> Driver:
        """This process."""
        return cls(host=socket.gethostname(), pid=os.getpid(), start_time=_start_time(os.getpid()))

    @property
    def is_alive(self) -> bool:
        """Whether it runs, seen from its own host."""
        start_time = _start_time(self.pid)
        return start_time is not None and start_time == (self.start_time or start_time)


class RunStatus(_Recorded):
    """Where a run and its stages stand. Times are ISO 8601 in UTC."""

    run_id: str
    name: str
    state: RunState
    digest: str
    """Equal for runs that would do the same: taken from the keys of the plan's stages."""
    stages: tuple[StageStatus, ...]
    created_at: str
    updated_at: str
    changed_at: str = ""
    """When the run came into its state; empty in older records."""
    driver: Driver | None = None
    message: str | None = None
    forced: tuple[str, ...] = ()
    """The stages that take nothing from the cache, also when the run is taken up again."""

    @property
    def full_name(self) -> str:
        """What tells the run from all others of its storage: `name/run_id`."""
        return f"{self.name}/{self.run_id}"

    def stage(self, name: str) -> StageStatus:
        """The status of one stage. Raises KeyError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


def entry_of(status: RunStatus) -> RunEntry:
    """What the index says of a run."""
    changed_at = status.changed_at or status.updated_at
    return RunEntry.of(status.run_id, status.name, status.state, status.digest, changed_at)


def read_status(layout: RunLayout) -> RunStatus:
    """How a run stands.

    Raises:
        UserError: the folder holds no record, or one that this version can't read.
    """
    try:
        pull_file(layout.status)
        data = layout.status.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{layout.folder} is not the folder of a run: it has no {layout.status.name}",
            remedy="name a run, or leave it out to get the newest one",
        ) from error
    return status_of(layout, data)


def refresh(layout: RunLayout) -> None:
    """Brings here what a store has of a run's record and logs; not where the run is at work here.

    Raises:
        UserError: the folder holds no readable record.
    """
    if place_of(layout.folder):
        status = read_status(layout)
        driver = status.driver
        if not (driver and driver.host == socket.gethostname() and is_live(status)):
            pull(layout.folder)


def is_recorded(layout: RunLayout) -> bool:
    """Whether there is a run in the folder."""
    pull_file(layout.status)
    return layout.status.is_file()


def status_of(layout: RunLayout, data: bytes) -> RunStatus:
    """The status that a file of it holds. Raises UserError where this version can't read it."""
    try:
        return RunStatus.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UserError(
            f"{layout.status} cannot be read: {where}: {problem['msg']}",
            remedy="use the version of raysmith that wrote it, or remove that run's folder",
        ) from error


def read_progress(path: Path) -> Progress | None:
    """What training said last; None when it has said nothing, or nothing readable."""
    try:
        return Progress.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_service(path: Path) -> Service | None:
    """Where a service listens; None when it does not yet, or says nothing readable."""
    try:
        return Service.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_progress(path: Path, progress: Progress) -> None:
    """Publishes progress; a reader sees the old or the new, whole. The folder must exist."""
    write_atomic(path, progress.model_dump_json(exclude_none=True).encode())


def write_phase(path: Path, phase: str) -> None:
    """Replaces the progress by what is being done before there are steps to count."""
    write_progress(path, Progress(phase=phase, updated_at=timestamp(utc_now())))


def is_live(status: RunStatus, now: Clock = utc_now) -> bool:
    """Whether the run's driver is at work.

    On this host the process table decides. A driver elsewhere is taken for alive while the status
    has been renewed within the last 60 s, see `Record.beat`.
    """
    driver = status.driver
    if status.state is not RunState.RUNNING or driver is None:
        return False
    if driver.host != socket.gethostname():
        return now() - datetime.fromisoformat(status.updated_at) < _SILENT_AFTER
    return driver.is_alive


def _start_time(pid: int) -> str | None:
    """When a process of this host started, in a unit of the host's own; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _exists(pid)
    # Counted from the state, which follows the name: a zombie no longer drives anything.
    return None if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it exists, and is another user's
    return ""
