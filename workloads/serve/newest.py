"""What a job's newest run left, for a service that is part of no run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.observed import RunStatus
from jobs.runs import recorded_runs
from storage.committed import read_committed
from storage.layout import Layout

log = logging.getLogger(__name__)

_LISTED = 5


def newest_artifacts(
    layout: Layout, name: str, stages: Sequence[str], run_id: str | None = None
) -> dict[str, Path]:
    """What these stages left, by stage, in the newest run of this name where all ended well.

    Of a run that goes on, what is committed counts. A stage that leaves nothing is absent.

    Args:
        layout: the storage.
        name: the job's name.
        stages: such as a model's stage, and one that measures whether the model is good enough.
        run_id: looks at this run alone.

    Raises:
        UserError: if there is no such run; the message says how the newest one stands.
    """
    runs = [
        found for found in recorded_runs(layout, name) if run_id in (None, found[0].folder.name)
    ]
    for run, status in runs:
        if (found := _artifacts(layout, status, stages)) is not None:
            if run != runs[0][0]:
                log.warning("%s is taken: in newer runs not all of the stages ended well", run)
            return found
    wanted = ", ".join(stages)
    what = f"run {run_id!r}" if run_id else "run"
    if not runs:
        names = ", ".join(layout.names()[:_LISTED]) or "none"
        raise UserError(
            f"there is no {what} of the job {name!r} in {layout.root}; the jobs there: {names}",
            f"run the job first, so that it leaves what is needed of it: {wanted}",
        )
    status = runs[0][1]
    stands = ", ".join(f"{s.name} {s.state.value}" for s in status.stages)
    raise UserError(
        f"no {what} of the job {name!r} in {layout.root} has committed artifacts of all of: "
        f"{wanted}; the newest, {status.run_id}, stands so: {stands}",
        f"run the job until these have ended well: {wanted}",
    )


def _artifacts(layout: Layout, status: RunStatus, stages: Sequence[str]) -> dict[str, Path] | None:
    """The committed artifacts of these stages; None where one of them is not done."""
    found = {}
    states = {stage.name: stage for stage in status.stages}
    for name in stages:
        stage = states.get(name)
        if stage is None or not stage.state.has_artifact:
            return None
        if stage.artifact:
            # Where the run saw it; the storage may be mounted elsewhere now.
            seen = Path(stage.artifact)
            folder = layout.run(status.name, seen.parents[1].name).artifact(seen.name)
            if not read_committed(folder, verify="sizes"):
                return None
            found[name] = folder
    return found
