"""What `raysmith events` prints: what happened in a run, read from storage alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jobs.observed import is_live, read_status, refresh
from jobs.state import StageState
from jobs.view.logs import POLL_S, STORE_POLL_S, Tail
from storage.layout import RunLayout
from storage.working_copy import place_of

_HEAD = ("time", "event", "stage")
_SHOWN_APART = ("state", "reason", "message")


def print_events(
    layout: RunLayout,
    *,
    follow: bool = False,
    as_json: bool = False,
    write: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Prints a line to each thing that happened; with `as_json` as it was recorded.

    With `follow` it goes on until the run has ended or its driver is gone.

    Raises:
        UserError: the folder holds no readable record.
    """
    refresh(layout)
    tail, told = Tail("", layout.events), _Teller()
    while True:
        # Asked before reading: what is written until the end is then read in the last round.
        goes_on = is_live(read_status(layout)) and follow
        if layout.events.is_file():
            for line in tail.lines(last=not goes_on):
                write(line if as_json else told.line(line))
        if not goes_on:
            return
        sleep(STORE_POLL_S if place_of(layout.folder) else POLL_S)
        refresh(layout)


class _Teller:
    """Puts events into words. It knows the stages' states so far, to say what they came from."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    def line(self, text: str) -> str:
        """One recorded event in words; as it stands where it is none, such as one half written."""
        try:
            event = json.loads(text)
            moment = f"{datetime.fromisoformat(event['time']):%Y-%m-%d %H:%M:%S}"
            kind, stage = event["event"], event.get("stage", "")
        except (ValueError, TypeError, KeyError):
            return text
        what = self._move(stage, event) if kind == "stage" else kind.replace("_", " ")
        if kind == "run_finished":
            what += f" -> {event.get('state')}"
        why = ": ".join(str(event[key]) for key in ("reason", "message") if event.get(key))
        more = " ".join(
            f"{key}={_plain(value)}"
            for key, value in event.items()
            if key not in (*_HEAD, *_SHOWN_APART) and value is not None
        )
        return "  ".join(filter(None, (moment, stage or "-", what, more, why)))

    def _move(self, stage: str, event: dict[str, Any]) -> str:
        old, new = self._states.get(stage, StageState.PENDING), str(event.get("state"))
        self._states[stage] = new
        return f"{old} -> {new}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
