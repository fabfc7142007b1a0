"""What `raysmith events` prints: what happened in a run, read from storage alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.observed import is_live, read_status, refresh
from storage.layout import RunLayout
from storage.working_copy import place_of

_POLL_S, _STORE_POLL_S = 0.5, 3.0
_HEAD = ("time", "event", "stage")


def print_events(
    layout: RunLayout,
    *,
    follow: bool,
    as_json: bool,
    write: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Prints the events of a run, a line to each; with `follow` until the run has ended.

    Raises:
        UserError: there is no such run.
    """
    offset = 0
    while True:
        refresh(layout)
        goes_on = follow and is_live(read_status(layout))
        lines, offset = _lines(layout, offset)
        for line in lines:
            write(line if as_json else _told(json.loads(line)))
        if not goes_on:
            return
        sleep(_STORE_POLL_S if place_of(layout.folder) else _POLL_S)


def _lines(layout: RunLayout, offset: int) -> tuple[list[str], int]:
    """The whole lines after `offset` bytes, and where they end."""
    if not layout.events.exists():
        return [], offset
    with layout.events.open("rb") as file:
        file.seek(offset)
        whole, _, _ = file.read().rpartition(b"\n")
    return whole.decode().splitlines(), offset + len(whole) + bool(whole)


def _told(event: Mapping[str, Any]) -> str:
    """One event as people read it: `10:32:05 [sft] running  attempt 2`."""
    moment = str(event.get("time", ""))[11:19]
    what = str(event.get("state") or event.get("event"))
    rest = {key: value for key, value in event.items() if key not in (*_HEAD, "state")}
    stage = f"[{event['stage']}] " if "stage" in event else ""
    details = "  ".join(_details(rest))
    return f"{moment}  {stage}{what}  {details}".rstrip()


def _details(fields: Mapping[str, Any]) -> Iterator[str]:
    for key, value in fields.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        yield f"{key.replace('_', ' ')} {value}"
