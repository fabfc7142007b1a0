"""What `raysmith status` prints: how a run stands, read from storage alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from jobs.observed import (
    Clock,
    Progress,
    RunStatus,
    StageStatus,
    is_live,
    read_progress,
    read_status,
    utc_now,
)
from jobs.state import RunState, StageState
from jobs.view.edges import Edges, missing, read_edges
from storage.layout import RunLayout
from storage.working_copy import here, place_of

INTERRUPTED = "interrupted"
"""Shown for a run whose driver is gone, and for the stages that it was at."""

STYLES = {
    StageState.PENDING: "dim",
    StageState.RUNNING: "cyan",
    StageState.RETRYING: "yellow",
    StageState.SUCCEEDED: "green",
    StageState.CACHED: "green",
    StageState.FAILED: "red",
    StageState.STOPPED: "yellow",
    StageState.SKIPPED: "dim",
}
"""The terminal style of each state."""

_HEADINGS = ("stage", "kind", "needs", "state", "attempt", "elapsed", "progress")


def render_status(layout: RunLayout, *, markup: bool = False, now: Clock = utc_now) -> str:
    """How the run stands, for a person; with rich's markup if asked for.

    Raises:
        UserError: the folder holds no readable record.
    """
    status = read_status(layout)
    live = is_live(status, now)
    head = f"{status.full_name}: {_run_state(status, live)}"
    lines = [head, f"folder: {shown(layout.folder)}", f"started: {clock_time(status.created_at)}"]
    if status.message:
        lines.append(f"message: {status.message}")
    edges = read_edges(layout)
    rows = [_HEADINGS, *(_row(layout, status, stage, edges, live, now) for stage in status.stages)]
    lined = table(rows)
    details = [line for stage in status.stages for line in _details(stage)]
    if markup:
        lines, details = [_escape(line) for line in lines], [_escape(line) for line in details]
        styles = ["bold", *(STYLES[stage.state] for stage in status.stages)]
        lined = [f"[{style}]{_escape(line)}[/]" for style, line in zip(styles, lined, strict=True)]
    return "\n".join([*lines, "", *lined, *(["", *details] if details else [])])


def as_json(layout: RunLayout, *, now: Clock = utc_now) -> str:
    """The run's status as JSON, with whether its driver lives, its folder, and of each stage what
    it needs and takes, the run that a cached artifact is of, and the progress.

    Raises:
        UserError: the folder holds no readable record.
    """
    status = read_status(layout)
    document = status.model_dump(mode="json")
    live, edges = is_live(status, now), read_edges(layout)
    document |= {"live": live, "folder": str(layout.folder)}
    for stage, entry in zip(status.stages, document["stages"], strict=True):
        found = edges.get(stage.name, Edges())
        entry |= {"needs": list(found.needs), "inputs": dict(found.inputs)}
        entry["waits_for"] = [each.name for each in missing(stage, edges, status.stages)]
        entry["origin"] = stage.origin
        progress = stage_progress(layout, stage)
        entry["progress"] = values = _finite(progress) if progress else None
        share = progress.share if progress else None
        entry["percent"] = None if share is None else round(100 * share, 1)
        entry["eta_s"] = values["remaining_s"] if values and live and _at_work(stage) else None
    return json.dumps(document, indent=2, ensure_ascii=False)


def stage_progress(layout: RunLayout, stage: StageStatus) -> Progress | None:
    """What the stage's newest attempt said last, if anything."""
    if stage.attempt < 1:
        return None
    return read_progress(layout.stage(stage.name).attempt(stage.attempt).progress_json)


def describe(progress: Progress) -> str:
    """Progress in one line: `step 12/100  loss 1.2345  251 tokens/s  ETA 1m01s`."""
    parts = [progress.phase or ""]
    if progress.step is not None:
        parts.append(
            f"{progress.unit or 'step'} {progress.step}"
            + (f"/{progress.max_steps}" * bool(progress.max_steps))
        )
    if progress.reward is not None:
        parts.append(f"reward {progress.reward:.4f}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.rows_per_second is not None:
        parts.append(f"{progress.rows_per_second:.1f} rows/s")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
    if progress.remaining_s is not None:
        parts.append(f"ETA {duration(progress.remaining_s)}")
    return "  ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """A time span in words: `5s`, `1m01s`, `2h05m`."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def elapsed_s(stage: StageStatus, end: datetime) -> float | None:
    """Seconds from the stage's start to its end, or to `end` while it goes on."""
    if stage.started_at is None:
        return None
    last = datetime.fromisoformat(stage.ended_at) if stage.ended_at else end
    return (last - datetime.fromisoformat(stage.started_at)).total_seconds()


def shown(path: Path | str) -> str:
    """A path as people type it: a URI in a store, relative where it is below the current folder."""
    place = place_of(Path(path))
    return str(place) if place else shown_here(path)


def shown_here(path: Path | str) -> str:
    """A path on this machine as people type it."""
    path = here(Path(path))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _run_state(status: RunStatus, live: bool) -> str:
    if status.state is not RunState.RUNNING:
        return status.state.value
    if not live:
        return f"{INTERRUPTED} (the same command goes on)"
    return f"running (process {status.driver.pid} on {status.driver.host})" if status.driver else ""


def _at_work(stage: StageStatus) -> bool:
    return stage.state in (StageState.RUNNING, StageState.RETRYING)


def _row(
    layout: RunLayout,
    status: RunStatus,
    stage: StageStatus,
    edges: Mapping[str, Edges],
    live: bool,
    now: Clock,
) -> tuple[str, ...]:
    at_work = _at_work(stage)
    lost = at_work and not live
    seconds = elapsed_s(stage, datetime.fromisoformat(status.updated_at) if lost else now())
    progress = stage_progress(layout, stage)
    return (
        stage.name,
        stage.kind,
        ", ".join(edges.get(stage.name, Edges()).needs),
        INTERRUPTED if lost else stage.state.value,
        str(stage.attempt or "") + (f" (+{stage.recoveries} recovered)" * bool(stage.recoveries)),
        "" if seconds is None else duration(seconds),
        _progress_cell(progress, at_work and live)
        if progress
        else _why_not(stage, missing(stage, edges, status.stages)),
    )


def _why_not(stage: StageStatus, others: Sequence[StageStatus]) -> str:
    """What keeps a stage from running, or kept it."""
    if others and stage.state is StageState.PENDING:
        return f"waits for {', '.join(each.name for each in others)}"
    return ", ".join(f"{each.name} {each.state}" for each in others)


def _progress_cell(progress: Progress, at_work: bool) -> str:
    if not at_work:  # what remained, and what it was doing then, says nothing any more
        progress = progress.model_copy(update={"phase": None, "remaining_s": None})
    percent = "" if progress.share is None else f"{progress.share:.0%}  "
    return percent + describe(progress)


def _details(stage: StageStatus) -> list[str]:
    lines = []
    if stage.reason or stage.message:
        lines.append(f"{stage.name}: " + ": ".join(filter(None, (stage.reason, stage.message))))
    if stage.retry_reason and stage.state is not StageState.RETRYING:
        first_line = (stage.retry_message or "").partition("\n")[0]
        why = ": ".join(filter(None, (stage.retry_reason, first_line)))
        lines.append(f"{stage.name}: tried again after {why}")
    if stage.artifact and stage.state.has_artifact:
        taken = f"taken from {stage.origin}, " * bool(stage.origin)
        lines.append(f"{stage.name}: {taken}artifact in {shown(stage.artifact)}")
    return lines


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, with their cells in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def clock_time(text: str) -> str:
    """A time of a record as people read it."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _finite(progress: Progress) -> dict[str, str | int | float | None]:
    # JSON has no NaN, and a loss may be one.
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in progress.model_dump().items()
    }
