"""What `raysmith list` prints: the runs of a storage, found by its index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice

from jobs.observed import Clock, RunStatus, is_live, utc_now
from jobs.runs import entries, status_at
from jobs.state import RunState
from jobs.view.status import INTERRUPTED, clock_time, duration, table
from storage.layout import Layout

NEWEST = 20
"""How many runs are listed where not all are asked for."""

STATES = (*(state.value for state in RunState), INTERRUPTED)
"""What runs may be chosen by."""

_HEADINGS = ("run", "state", "started", "took", "stages", "reason")
_THREADS = 8
_LONGEST_REASON = 60


def listed(
    layout: Layout,
    name: str = "",
    *,
    state: str | None = None,
    limit: int | None = NEWEST,
    now: Clock = utc_now,
) -> list[RunStatus]:
    """The runs of this name, or of all, whose state changed last; those of a state where it is set.

    Only as many records are read as are needed to tell `limit` runs; None reads all.
    """
    return list(islice(_chosen(layout, name, state, now), limit))


def list_text(runs: list[RunStatus], *, now: Clock = utc_now) -> str:
    """A line to each run."""
    return "\n".join(table([_HEADINGS, *(_row(run, now) for run in runs)]))


def list_json(runs: list[RunStatus], *, now: Clock = utc_now) -> str:
    """What the lines say, and the stages, as JSON."""
    documents = [
        {**run.model_dump(mode="json"), "state": shown_state(run, now), "took_s": _took_s(run, now)}
        for run in runs
    ]
    return json.dumps(documents, indent=2, ensure_ascii=False)


def shown_state(run: RunStatus, now: Clock = utc_now) -> str:
    """A run's state in a word; `interrupted` where its driver is gone."""
    lost = run.state is RunState.RUNNING and not is_live(run, now)
    return INTERRUPTED if lost else run.state.value


def _chosen(layout: Layout, name: str, state: str | None, now: Clock) -> Iterator[RunStatus]:
    indexed = RunState.RUNNING.value if state == INTERRUPTED else state
    wanted = [
        entry
        for entry in entries(layout)
        if name in ("", entry.name) and indexed in (None, entry.state)
    ]
    # Side by side, since in a store each is a request.
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(wanted), NEWEST):
            batch = wanted[start : start + NEWEST]
            for status in pool.map(lambda entry: status_at(layout, entry), batch):
                if status and state in (None, shown_state(status, now)):
                    yield status


def _row(run: RunStatus, now: Clock) -> tuple[str, ...]:
    done = sum(stage.state.has_artifact for stage in run.stages)
    return (
        run.full_name,
        shown_state(run, now),
        clock_time(run.created_at),
        duration(_took_s(run, now)),
        f"{done}/{len(run.stages)}",
        _reason(run),
    )


def _took_s(run: RunStatus, now: Clock) -> float:
    end = now() if is_live(run, now) else datetime.fromisoformat(run.updated_at)
    return max(end - datetime.fromisoformat(run.created_at), timedelta()).total_seconds()


def _reason(run: RunStatus) -> str:
    """Why it did not succeed, in one short line."""
    found = [
        ": ".join(filter(None, (stage.name, stage.reason, stage.message)))
        for stage in run.stages
        if stage.reason or stage.message
    ]
    text = " ".join((run.message or next(iter(found), "")).split())
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."
