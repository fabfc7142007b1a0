"""What `raysmith list` prints: the runs of a storage, the newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.errors import UserError
from jobs.observed import Clock, RunStatus, is_live, read_status, utc_now
from jobs.runs import entries
from jobs.state import RunState
from jobs.view.status import INTERRUPTED, duration, table
from storage.index import RunEntry
from storage.layout import Layout

_HEADINGS = ("run", "state", "started", "took", "stages", "reason")
_THREADS = 16


@dataclass(frozen=True)
class Listed:
    """One run of the list."""

    run: str
    state: str
    started_at: str
    seconds: float
    """From its start to its end, or until now."""
    stages_done: int
    stages: int
    reason: str
    """Why its first stage that failed did; empty where none did."""

    @property
    def row(self) -> tuple[str, ...]:
        """The run as a row of the table."""
        started = f"{datetime.fromisoformat(self.started_at):%Y-%m-%d %H:%M}"
        done = f"{self.stages_done}/{self.stages}"
        return (self.run, self.state, started, duration(self.seconds), done, self.reason)


def listing(
    layout: Layout,
    name: str | None,
    states: Sequence[str],
    limit: int | None,
    *,
    as_json: bool,
    now: Clock = utc_now,
) -> str:
    """The newest `limit` runs (None: all) of this name in these states, as a table or JSON.

    The index says which runs there are; only those that are shown are read.
    """
    found = [entry for entry in entries(layout) if name in (None, entry.name)]
    # A run that the index takes for running may have been interrupted, which its record tells.
    wanted = [e for e in found if not states or {e.state, *_disguises(e)} & set(states)]
    shown: list[Listed] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for listed in pool.map(lambda entry: _listed(layout, entry, now), wanted[:limit]):
            if listed and (not states or listed.state in states):
                shown.append(listed)
    if as_json:
        return json.dumps([vars(each) for each in shown], indent=2)
    if not shown:
        return f"no runs in {layout.root}"
    lines = table([_HEADINGS, *(each.row for each in shown)])
    if limit is not None and len(wanted) > limit:
        lines.append(f"{len(wanted) - limit} more: --all")
    return "\n".join(lines)


def _disguises(entry: RunEntry) -> set[str]:
    return {INTERRUPTED} if entry.state == RunState.RUNNING else set()


def _listed(layout: Layout, entry: RunEntry, now: Clock) -> Listed | None:
    try:
        status = read_status(layout.run(entry.name, entry.run_id))
    except UserError:
        return None
    live = is_live(status, now)
    ended = now().astimezone(UTC) if live else datetime.fromisoformat(status.updated_at)
    failed = [stage.reason for stage in status.stages if stage.reason]
    return Listed(
        run=f"{status.name}/{status.run_id}",
        state=_state(status, live=live),
        started_at=status.created_at,
        seconds=(ended - datetime.fromisoformat(status.created_at)).total_seconds(),
        stages_done=sum(stage.state.has_artifact for stage in status.stages),
        stages=len(status.stages),
        reason=failed[0].value if failed else "",
    )


def _state(status: RunStatus, *, live: bool) -> str:
    interrupted = status.state is RunState.RUNNING and not live
    return INTERRUPTED if interrupted else status.state.value
