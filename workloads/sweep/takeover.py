"""How a trial goes on from another one's checkpoint, with values of its own."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.errors import RaysmithError
from storage.commit import begin, commit, discard, newest_committed
from storage.durable import write_atomic
from storage.layout import StageLayout, TrialLayout
from storage.manifest import Owner

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
    write_atomic(layout.takeover, json.dumps(asdict(takeover)).encode())


def take_over(sweep: StageLayout, layout: TrialLayout, owner: Owner) -> int | None:
    """Puts the donor's checkpoint in the place of the trial's own, where that is wanted.

    Returns the step of the checkpoint; None where nothing was to be taken over. Killed in between
    and called again, it does the same again.

    Raises:
        RaysmithError: if the donor leaves no such checkpoint.
    """
    if not layout.takeover.exists():
        return None
    wanted = Takeover(**json.loads(layout.takeover.read_text()))
    for folder in layout.checkpoints():
        discard(folder)
    donor = sweep.trial(wanted.donor)
    for _ in range(_TRIES):
        try:
            step = _copy_newest(donor, wanted.step, layout, owner)
        except FileNotFoundError:
            continue  # the donor has a newer one by now, and no longer this
        layout.takeover.unlink()
        return step
    raise RaysmithError(
        f"no checkpoint of {donor.folder} could be copied", "keep more: checkpoint.save_total_limit"
    )


def _copy_newest(donor: TrialLayout, least: int, layout: TrialLayout, owner: Owner) -> int:
    deadline = time.monotonic() + _WAIT_S
    while not (newest := newest_committed(donor.checkpoints())) or _step(newest.folder) < least:
        if time.monotonic() > deadline:
            raise RaysmithError(
                f"{donor.folder} has no checkpoint of step {least} or later",
                "set checkpoint.save_steps so that each report of the metric has one",
            )
        time.sleep(0.1)
    target = layout.checkpoint(_step(newest.folder))
    begin(target, owner)
    for file in newest.manifest.files:
        copy = target / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            copy.hardlink_to(newest.folder / file.name)
        except FileNotFoundError:
            discard(target)
            raise
        except OSError:
            shutil.copy2(newest.folder / file.name, copy)
    commit(target, owner, newest.manifest.meta)
    return _step(target)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
