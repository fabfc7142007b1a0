"""Removes runs: never one that is at work, nor one whose artifacts other runs stand on."""

from __future__ import annotations

import shutil

from jobs.errors import UserError
from jobs.observed import is_live, is_recorded, read_status
from storage.index import Index
from storage.layout import Layout, RunLayout
from storage.working_copy import place_of


def check_removable(run: RunLayout, also: frozenset[RunLayout] = frozenset()) -> None:
    """Sees that a run may be removed, and the runs in `also` with it.

    Raises:
        UserError: it is at work, or a run that stays has an artifact of it.
    """
    status = read_status(run)
    what = f"run {status.name}/{status.run_id}"
    if is_live(status):
        raise UserError(f"{what} is going on", f"stop it first: raysmith stop {status.run_id}")
    layout = Layout(run.root)
    users = [
        f"{user.name}/{user.run_id} ({user.stage})"
        for user in Index(run.root).users(status.name, status.run_id)
        if (other := layout.run(user.name, user.run_id)) not in also and is_recorded(other)
    ]
    if users:
        raise UserError(
            f"{what} made artifacts that others use: {', '.join(users)}",
            "remove those runs with it, or keep it",
        )


def remove(run: RunLayout) -> None:
    """Removes a run that `check_removable` let pass: from the index, the store and this machine.

    Killed in between and called again, it goes on.
    """
    Index(run.root).forget_run(run.folder.parent.name, run.folder.name)
    if place := place_of(run.folder):
        place.store.delete(f"{place.prefix}{run.status.name}")
        place.store.delete_prefix(place.prefix)
    run.status.unlink(missing_ok=True)
    if run.folder.exists():
        shutil.rmtree(run.folder)
