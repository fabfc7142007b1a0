"""What may go from a storage: old runs, what dead attempts left, copies of what is stored.

Nothing of a run at work goes, nothing committed but with its whole run, no run whose artifact one
that stays takes, and nothing that no run of ours has claimed. Each thing is looked at once more
when it goes, since a run may have come to work meanwhile.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.errors import UserError
from jobs.observed import Clock, RunStatus, is_live, read_status, utc_now
from jobs.removal import Doomed, all_runs, remove, takers
from jobs.state import RunState
from jobs.view.runs import shown_state
from storage.commit import discard
from storage.committed import read_owner, unfinished
from storage.layout import Layout, RunLayout
from storage.working_copy import place_of

_RUN_ID = re.compile(r"(\d{8}-\d{6})-[0-9a-f]{6}(-\d+)?")
_UNFINISHED_FOR = timedelta(days=1)
"""How long a folder without a record is taken for a run that is just beginning."""


@dataclass(frozen=True)
class Rules:
    """Which runs are old. A run goes when every rule that is given lets it go; with none, none."""

    older_than_s: float | None = None
    """Those that came into their state longer ago than this."""
    keep_last: int | None = None
    """Those beyond so many newest of their name."""
    name: str = ""
    """Only runs called so are looked at; all when empty."""
    copies: bool = False
    """Whether copies on this machine go, of runs that have ended and lie in a store."""


@dataclass(frozen=True)
class Garbage:
    """One thing that may go."""

    what: str
    size_bytes: int
    remove: Callable[[], None]
    """Raises UserError where it is at work by now, OSError and StorageError."""


@dataclass(frozen=True)
class Found:
    """What may go, and which old runs stay and why."""

    garbage: Sequence[Garbage]
    stay: Sequence[str]


def find_garbage(layout: Layout, rules: Rules, now: Clock = utc_now) -> Found:
    """Looks at all runs of a storage. Removes nothing."""
    runs = list(all_runs(layout))
    taken = takers(layout, runs)
    mine = [run for run in runs if rules.name in ("", run.name)]
    old = {run.full_name: run for run in _old(mine, rules, now) if not is_live(run, now)}
    stay = _spare_taken(old, taken)
    garbage = [_whole_run(layout, run) for run in old.values()]
    needed = {run for user, _, run in taken if is_live(user, now)}
    for run in mine:
        if run.full_name in old or is_live(run, now):
            continue
        at = layout.run(run.name, run.run_id)
        if rules.copies and run.state is not RunState.RUNNING and run.full_name not in needed:
            garbage += _copy(at)
        garbage += _dead_folders(at)
    return Found([*garbage, *_remnants(layout, runs, rules, now)], stay)


def _old(runs: Iterable[RunStatus], rules: Rules, now: Clock) -> Iterator[RunStatus]:
    if rules.older_than_s is None and rules.keep_last is None:
        return
    by_name: dict[str, list[RunStatus]] = defaultdict(list)
    for run in sorted(runs, key=_changed_at, reverse=True):
        by_name[run.name].append(run)
    latest = now() - timedelta(seconds=rules.older_than_s or 0)
    for newest_first in by_name.values():
        for run in newest_first[rules.keep_last or 0 :]:
            if rules.older_than_s is None or _changed_at(run) < latest:
                yield run


def _changed_at(run: RunStatus) -> datetime:
    # A driver that died left no later time than that of its last sign of life.
    ended = run.state is not RunState.RUNNING
    return datetime.fromisoformat((ended and run.changed_at) or run.updated_at)


def _spare_taken(
    old: dict[str, RunStatus], taken: Sequence[tuple[RunStatus, str, str]]
) -> list[str]:
    """Takes those from `old` whose artifacts a run takes that stays, and tells why each stays."""
    stay: list[str] = []
    while True:
        spared = {
            run: f"{run} stays: stage {stage} of {user.full_name} took its artifact from it"
            for user, stage, run in taken
            if run in old and user.full_name not in old
        }
        if not spared:
            return stay
        for run, reason in spared.items():
            del old[run]
            stay.append(reason)


def _whole_run(layout: Layout, run: RunStatus) -> Garbage:
    at = layout.run(run.name, run.run_id)
    doomed = Doomed(at, run)
    what = f"run {doomed} ({shown_state(run)}, {_changed_at(run):%Y-%m-%d})"
    return Garbage(what, _size_bytes(at.folder), lambda: remove(layout, doomed))


def _dead_folders(run: RunLayout) -> Iterator[Garbage]:
    """What attempts claimed that ended before they could commit."""

    def garbage(folder: Path, delete: Callable[[Path], object]) -> Garbage:
        def delete_now() -> None:
            if is_live(read_status(run)):
                raise UserError(f"{run.folder} has come to work", "collect again when it has ended")
            delete(folder)

        where = folder.relative_to(run.folder).as_posix()
        what = f"{run.full_name}: {where}, which was never finished"
        return Garbage(what, _size_bytes(folder), delete_now)

    for folder in unfinished(run.folder):
        owner = read_owner(folder)
        if owner and owner.run_id == run.folder.name:
            yield garbage(folder, discard)
    for folder in sorted(run.folder.glob("stages/*/scratch")):
        if not folder.is_symlink():
            yield garbage(folder, shutil.rmtree)


def _copy(run: RunLayout) -> Iterator[Garbage]:
    if place_of(run.folder) and any(path != run.status for path in run.folder.iterdir()):
        what = f"the copy of {run.full_name} on this machine"
        size_bytes = _disk_bytes(run.folder)
        yield Garbage(what, size_bytes, lambda: shutil.rmtree(run.folder))


def _remnants(
    layout: Layout, runs: Sequence[RunStatus], rules: Rules, now: Clock
) -> Iterator[Garbage]:
    """Folders of runs whose removal was cut off: their status went first."""
    known = {run.full_name for run in runs}
    for name in layout.names():
        for run_id in layout.runs(name) if rules.name in ("", name) else ():
            born = _RUN_ID.fullmatch(run_id)
            run = layout.run(name, run_id)
            if not born or run.full_name in known or run.status.exists():
                continue
            at = datetime.strptime(born[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
            if now() - at > _UNFINISHED_FOR:
                what = f"what is left of run {run.full_name}"
                yield Garbage(what, _size_bytes(run.folder), _removal(run))


def _removal(run: RunLayout) -> Callable[[], None]:
    def remove_all() -> None:
        if place := place_of(run.folder):
            place.store.delete_prefix(place.prefix)
        shutil.rmtree(run.folder, ignore_errors=True)

    return remove_all


def _size_bytes(folder: Path) -> int:
    """Of a folder in its store, else on the disk."""
    if place := place_of(folder):
        return sum(entry.size_bytes for entry in place.store.list(place.prefix))
    return _disk_bytes(folder)


def _disk_bytes(folder: Path) -> int:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)
