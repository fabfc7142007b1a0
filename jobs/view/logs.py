"""What `raysmith logs` prints: the logs of a run's stages, read from storage alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.observed import RunStatus, is_live, read_status, refresh
from storage.layout import AttemptLayout, RunLayout
from storage.working_copy import place_of

POLL_S = 0.5
"""Seconds from one look at the files to the next when following."""

STORE_POLL_S = 3.0
"""The same where each look asks a store."""

_CHUNK_BYTES = 1 << 20
_NUMBERED_LOG = re.compile(r"(worker|rollout)_(\d+)\.log")


def print_logs(
    layout: RunLayout,
    stage: str | None = None,
    *,
    attempt: int | None = None,
    rank: int | None = None,
    follow: bool = False,
    write: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Prints the logs of one stage or of all, of the given attempt or the newest one.

    With `rank`, that of the worker of this rank alone.

    `write` gets whole lines without their ends, with a prefix such as `sft[rank0] `. With
    `follow` it goes on, through new attempts, until the run has ended or its driver is gone.

    Raises:
        UserError: there is no such run, stage, attempt or rank. A rank that may still begin is
            waited for with `follow`.
    """
    refresh(layout)
    status = read_status(layout)
    _check(status, stage, attempt)
    role = None if rank is None else f"rank{rank}"
    tails: dict[Path, Tail] = {}
    while True:
        # Asked before reading: what is written until the end is then read in the last round.
        goes_on = follow and is_live(status)
        for source, path in _logs(layout, status, stage, attempt):
            if role in (None, source.role):
                tails.setdefault(path, Tail(f"{source} ", path))
        for tail in tails.values():
            for line in tail.lines(last=not goes_on):
                write(line)
        if not goes_on:
            break
        sleep(STORE_POLL_S if place_of(layout.folder) else POLL_S)
        refresh(layout)
        status = read_status(layout)
    if not tails:
        if rank is not None:
            raise _no_rank(layout, status, stage, attempt, rank)
        write("no logs yet" + _cached_note(status, stage))


@dataclass
class Tail:
    """A log file that may still grow."""

    prefix: str
    path: Path
    offset: int = 0
    rest: bytes = b""
    """The beginning of a line whose end is not written yet."""

    def lines(self, *, last: bool) -> Iterator[str]:
        """The lines since the call before; the unfinished one too if this is the `last` call."""
        for chunk in self._chunks():
            *whole, self.rest = (self.rest + chunk).split(b"\n")
            yield from map(self._clean, whole)
        if last and self.rest:
            yield self._clean(self.rest)
            self.rest = b""

    def _chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self.offset:  # written anew
                self.offset, self.rest = 0, b""
            file.seek(self.offset)
            while chunk := file.read(_CHUNK_BYTES):
                self.offset += len(chunk)
                yield chunk

    def _clean(self, line: bytes) -> str:
        # A progress bar rewrites its line; only its last state is of use in a log.
        text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
        return self.prefix + text


@dataclass(frozen=True)
class _Source:
    """Whose log a file is."""

    stage: str
    attempt: int
    role: str
    """Such as `driver` or `rank0`."""

    def __str__(self) -> str:
        return f"{self.stage}[{self.role}]"


def _logs(
    layout: RunLayout, status: RunStatus, stage: str | None, attempt: int | None
) -> Iterator[tuple[_Source, Path]]:
    """The log files that there are of a stage or of all, in the order to print them."""
    for each in status.stages:
        number = attempt or each.attempt
        if stage in (None, each.name) and number >= 1:
            for role, path in _files(layout.stage(each.name).attempt(number)):
                yield _Source(each.name, number, role), path


def _files(attempt: AttemptLayout) -> Iterator[tuple[str, Path]]:
    if attempt.driver_log.is_file():
        yield "driver", attempt.driver_log
    found = [_NUMBERED_LOG.fullmatch(path.name) for path in attempt.folder.glob("*_*.log")]
    numbers = [(match[1], int(match[2])) for match in found if match]
    for rank in sorted(number for role, number in numbers if role == "worker"):
        yield f"rank{rank}", attempt.worker_log(rank)
    for index in sorted(number for role, number in numbers if role == "rollout"):
        yield f"rollout{index}", attempt.rollout_log(index)


def _check(status: RunStatus, stage: str | None, attempt: int | None) -> None:
    stages = [each for each in status.stages if stage in (None, each.name)]
    run = f"run {status.full_name}"
    if not stages:
        names = ", ".join(each.name for each in status.stages)
        raise UserError(f"{run} has no stage {stage!r}", remedy=f"its stages are: {names}")
    newest = max(each.attempt for each in stages)
    if attempt is not None and not 1 <= attempt <= newest:
        where = f"stage {stage}" if stage else run
        raise UserError(
            f"{where} has no attempt {attempt}",
            remedy=f"its attempts are: {', '.join(map(str, range(1, newest + 1)))}"
            if newest
            else "it has not started yet; see `raysmith status`",
        )


def _no_rank(
    layout: RunLayout, status: RunStatus, stage: str | None, attempt: int | None, rank: int
) -> UserError:
    where = f"stage {stage}" if stage else f"run {status.full_name}"
    of_attempt = f" in attempt {attempt}" if attempt else ""
    sources = [source for source, _ in _logs(layout, status, stage, attempt)]
    ranks = [str(source) for source in sources if source.role.startswith("rank")]
    return UserError(
        f"{where} has no log of rank {rank}{of_attempt}{_cached_note(status, stage)}",
        remedy=f"its ranks are: {', '.join(ranks)}"
        if ranks
        else "it has none of any rank: only stages that train have workers; leave --rank out",
    )


def _cached_note(status: RunStatus, stage: str | None) -> str:
    cached = [
        each
        for each in status.stages
        if stage in (None, each.name) and each.origin and each.attempt == 0
    ]
    return "".join(
        f"; {each.name} was taken from {each.origin}, see `raysmith logs {each.origin}`"
        for each in cached
    )
