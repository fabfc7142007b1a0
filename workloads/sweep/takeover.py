"""How a trial goes on from another one's checkpoint, with values of its own."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.errors import RaysmithError
from storage.commit import adopt, discard
from storage.committed import read_committed
from storage.durable import write_atomic
from storage.layout import StageLayout, TrialLayout
from storage.manifest import MARKER_FILE, Owner, manifest_from_json

_WAIT_S = 120.0
_TRIES = 5


@dataclass(frozen=True)
class Takeover:
    """What to take over."""

    donor: int
    """The index of the other trial."""
    step: int
    """The step that its checkpoint has at least."""


def write_takeover(layout: TrialLayout, takeover: Takeover) -> None:
    """Leaves a trial word of what it shall take over before its next turn."""
    layout.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(layout.takeover, json.dumps(asdict(takeover)).encode())


def read_takeover(layout: TrialLayout) -> Takeover | None:
    """What a trial shall take over; None where nothing says so."""
    try:
        return Takeover(**json.loads(layout.takeover.read_text()))
    except FileNotFoundError:
        return None


def take_over(
    sweep: StageLayout, layout: TrialLayout, owner: Owner, wait_s: float = _WAIT_S
) -> int | None:
    """Puts the donor's checkpoint in the place of the trial's own, where that is wanted.

    It is the first that the donor still has of the step that was told, or a later one. Returns its
    step; None where nothing was to be taken over. Killed in between and called again, it does the
    same again.

    Raises:
        RaysmithError: if the donor leaves no such checkpoint.
    """
    wanted = read_takeover(layout)
    if not wanted:
        return None
    for folder in layout.checkpoints():
        discard(folder)
    donor = sweep.trial(wanted.donor)
    for _ in range(_TRIES):
        try:
            step = _copy(_checkpoint(donor, wanted.step, wait_s), layout, owner)
        except FileNotFoundError:
            continue  # the donor has newer ones by now, and no longer this
        layout.takeover.unlink()
        return step
    raise RaysmithError(
        f"no checkpoint of {donor.folder} could be copied", "keep more: checkpoint.save_total_limit"
    )


def _checkpoint(donor: TrialLayout, least: int, wait_s: float) -> Path:
    """The donor's first committed checkpoint of that step or later, waited for."""
    deadline = time.monotonic() + wait_s
    while True:
        for folder in donor.checkpoints():
            if _step(folder) >= least and read_committed(folder):
                return folder
        if time.monotonic() > deadline:
            raise RaysmithError(
                f"{donor.folder} has no checkpoint of step {least} or later",
                "set checkpoint.save_steps so that each report of the metric has one",
            )
        time.sleep(0.1)


def _copy(checkpoint: Path, layout: TrialLayout, owner: Owner) -> int:
    """Commits a checkpoint as the trial's. Raises FileNotFoundError if it vanishes meanwhile."""
    step = _step(checkpoint)
    manifest = manifest_from_json((checkpoint / MARKER_FILE).read_bytes())
    target = layout.checkpoint(step)
    try:
        adopt(checkpoint, manifest, target, owner, manifest.meta)
    except FileNotFoundError:
        discard(target)
        raise
    return step


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
