"""What is asked of a run that goes on: to stop, or to serve another model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jobs.errors import RaysmithError, UserError
from jobs.plan.resolve import Plan
from jobs.record import RunStatus, StageStatus, is_live, read_status
from jobs.stopping import ask_to_stop
from storage.layout import AttemptLayout, RunLayout
from workloads.models.check import check_weights
from workloads.models.resolve import resolve_model
from workloads.serve.updates import Outcome, ask_for, outcome_of

_POLL_S = 0.2


def stop(layout: RunLayout, *, wait: bool, now: bool = False) -> RunStatus:
    """Asks a run to stop; returns how it stands, which is at its end when `wait` is set.

    Training commits a checkpoint first and a service ends its answers, but when it is asked a
    second time, or with `now`: then the run ends at once.

    Raises:
        UserError: if no process drives the run.
    """
    status = _live(layout)
    ask_to_stop(layout, status, now=now)
    while wait and is_live(status := read_status(layout)):
        time.sleep(_POLL_S)
    return status


def update(
    layout: RunLayout, model: str, stage: str | None, note: Callable[[str], None]
) -> Outcome:
    """Has a run's service serve another model, and waits for what comes of it.

    Raises:
        UserError: if the run serves nothing, or there is no such model.
        RaysmithError: if the run ended meanwhile.
    """
    status = _live(layout)
    serving = _serving(layout, status, stage)
    folder = layout.stage(serving.name).updates
    plan = Plan.from_json(layout.plan.read_text(encoding="utf-8"))
    source = resolve_model(model, (str(Path.cwd()), *plan.base_folders))
    check_weights(source)
    asked = ask_for(folder, source.name if source.kind == "folder" else model)
    note(f"starting {model} beside what is served; requests go on meanwhile")
    while True:
        if outcome := outcome_of(folder, asked):
            return outcome
        if not is_live(read_status(layout)):
            raise RaysmithError("the run ended before the update was done")
        time.sleep(_POLL_S)


def _live(layout: RunLayout) -> RunStatus:
    status = read_status(layout)
    if not is_live(status):
        raise UserError(
            f"run {status.full_name} is not going on: it {status.state.value}",
            "see it with `raysmith status`",
        )
    return status


def _serving(layout: RunLayout, status: RunStatus, name: str | None) -> StageStatus:
    for stage in status.stages:
        if (
            name in (None, stage.name)
            and stage.attempt
            and _attempt(layout, stage).service_json.exists()
        ):
            return stage
    raise UserError(
        f"run {status.full_name} serves nothing" + (f" in a stage {name!r}" if name else ""),
        "wait until it does, as `raysmith status` shows; or name another run",
    )


def _attempt(layout: RunLayout, stage: StageStatus) -> AttemptLayout:
    return layout.stage(stage.name).attempt(stage.attempt)
