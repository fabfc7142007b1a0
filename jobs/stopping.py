"""Requests to stop a run: signals to its driver, and a file in the run's folder.

The file works from any machine that has the storage. It names the driver that is meant, so that a
request to one that has ended does not stop the next.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pydantic import BaseModel, ValidationError

from jobs.observed import Driver, RunStatus
from storage.durable import write_atomic
from storage.layout import RunLayout
from storage.mirror import pull_file, push_file, remove_file

GRACEFUL, NOW = 1, 2
"""Requests so far: to commit what there is and end, and to end at once."""

_LOOK_EVERY_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Request(BaseModel):
    times: int = 0
    driver: Driver | None = None


class StopRequests:
    """Counts the requests to this process, which drives a run. For the main thread."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._signals = 0
        self._asked = 0
        self._looked = -_LOOK_EVERY_S
        self._here = Driver.here()

    @property
    def times(self) -> int:
        """How often it was asked; the file is looked at once in a second."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            request = _read(self._layout)
            if request.driver in (None, self._here):
                self._asked = max(self._asked, request.times)
        return max(self._signals, self._asked)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the signals for the block, and the request away at its end."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        if _read(self._layout).driver != self._here:
            remove_file(self._layout.stop_request)
        self.take_signals()
        try:
            yield
        finally:
            remove_file(self._layout.stop_request)
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_signals(self) -> None:
        """Counts signals to stop. Taken again after Ray has started, which takes SIGTERM."""

        def count(_signal: int, _frame: FrameType | None) -> None:
            self._signals += 1

        for number in _SIGNALS:
            signal.signal(number, count)


def ask_to_stop(layout: RunLayout, status: RunStatus, *, now: bool = False) -> int:
    """Asks a run's driver to stop; returns how often it has been asked, see `GRACEFUL`.

    Asked a second time, or with `now`, it ends at once.
    """
    pull_file(layout.stop_request)
    before = _read(layout)
    asked = before.times if before.driver == status.driver else 0
    times = NOW if now else min(asked + 1, NOW)
    request = _Request(times=times, driver=status.driver)
    write_atomic(layout.stop_request, request.model_dump_json().encode() + b"\n")
    push_file(layout.stop_request)
    return times


def _read(layout: RunLayout) -> _Request:
    try:
        return _Request.model_validate(json.loads(layout.stop_request.read_bytes()))
    except (FileNotFoundError, ValueError, ValidationError):
        return _Request()
