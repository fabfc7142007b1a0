"""Removing runs from storage, but never what another run still takes.

The index forgets a run first, so that no run finds an artifact that is about to go; its status goes
next, and from then on it is no run any more; a removal that was cut off is gone on with by hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.observed import RunStatus, is_live, read_status
from jobs.runs import entries, resolve_run, status_at
from storage.index import Index
from storage.layout import Layout, RunLayout
from storage.mirror import remove_file
from storage.working_copy import here, place_of

_THREADS = 8


@dataclass(frozen=True)
class Doomed:
    """A run that may be removed."""

    layout: RunLayout
    status: RunStatus

    def __str__(self) -> str:
        return self.status.full_name


def removable(layout: Layout, names: Sequence[str]) -> list[Doomed]:
    """The runs that the names mean, each a run id, `name/run_id` or a folder. Removes nothing.

    Raises:
        UserError: a name is of no run or of many, a run is at work or lies elsewhere, or a run that
            stays takes an artifact of one of them.
    """
    doomed = {run.layout.folder: run for run in (_named(layout, name) for name in names)}
    _refuse_used(layout, list(doomed.values()))
    return list(doomed.values())


def remove(layout: Layout, run: Doomed) -> None:
    """Removes a run from storage, and its working copy. Links are deleted, never followed.

    Raises:
        UserError: it has come to work meanwhile.
        OSError: the disk refuses.
    """
    _refuse_live(read_status(run.layout))
    Index(layout.root).forget_run(run.status.name, run.status.run_id)
    remove_file(run.layout.status)
    if place := place_of(run.layout.folder):
        place.store.delete_prefix(place.prefix)
    shutil.rmtree(run.layout.folder)


def _named(layout: Layout, name: str) -> Doomed:
    found = resolve_run(layout, name)
    status = read_status(found)
    if name == status.name and name != status.run_id:
        raise UserError(
            f"{name!r} is the name of runs, and which one goes must be said",
            f"give an id, such as {status.full_name}; see `raysmith list {name}`",
        )
    run = layout.run(status.name, status.run_id)
    if run.folder.resolve() != found.folder.resolve():
        raise UserError(
            f"{found.folder} is not a run of the storage {layout.root}",
            "say with --storage which storage it lies in",
        )
    _refuse_live(status)
    return Doomed(run, status)


def _refuse_live(status: RunStatus) -> None:
    if is_live(status):
        run = status.full_name
        raise UserError(f"{run} is at work", f"stop it first: raysmith stop {run}")


def _refuse_used(layout: Layout, doomed: Sequence[Doomed]) -> None:
    """Refuses runs whose artifacts others take: the records tell, and the index does not."""
    going = {str(run) for run in doomed}
    for user, stage, run in takers(layout, all_runs(layout)):
        by = user.full_name
        if run in going and by not in going:
            raise UserError(
                f"{run} stays: stage {stage} of {by} took its artifact from it",
                f"remove both: raysmith rm {run} {by}",
            )


def takers(layout: Layout, runs: Iterable[RunStatus]) -> list[tuple[RunStatus, str, str]]:
    """The runs with a stage that took its artifact from another run of the same storage.

    Each with the stage's name, and the other run as `name/run_id`.
    """
    root, found = layout.root.resolve(), []
    for user in runs:
        for stage in user.stages:
            artifact = here(Path(stage.artifact)).resolve() if stage.artifact else root
            if artifact.is_relative_to(root):
                run = "/".join(artifact.relative_to(root).parts[:2])
                if run not in ("", user.full_name):
                    found.append((user, stage.name, run))
    return found


def all_runs(layout: Layout) -> Iterator[RunStatus]:
    """How all runs stand that there are."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for status in pool.map(lambda entry: status_at(layout, entry), entries(layout)):
            if status:
                yield status
