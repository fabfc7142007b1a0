"""When to kill: a phase of a run, known by the requests that it makes of its store."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event, Lock, Timer
from urllib.parse import unquote

_OBJECT = re.compile(
    r"(?:PUT|POST) \S*/(?:(?P<checkpoint>checkpoint-\d+)|artifacts/[\w-]+)/(?P<name>[^/ ?]+)"
)
_MARKER, _OWNER = "_COMMITTED.json", "_OWNER.json"
HELD_S = 0.5
"""How long the request is held in whose midst the victim dies."""


class Phase(StrEnum):
    """What a run is at."""

    BEFORE_FIRST = "before the first checkpoint"
    MID_STEP = "mid-step"
    MID_SAVE = "mid-save"
    MID_UPLOAD = "mid-upload"
    BEFORE_COMMIT = "between upload and commit"
    BETWEEN_STAGES = "between stages"
    DURING_STOP = "during stop"
    AT_THE_END = "at the end"


@dataclass
class Trap:
    """Springs once, at a random moment of a phase. `watch` is for the proxy before the store."""

    phase: Phase
    draw: random.Random
    sprung: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _timer: Timer | None = None
    _files: int = 0

    def __post_init__(self) -> None:
        self._nth = self.draw.randint(1, 5)
        self._passes = self.draw.random() < 0.5

    def watch(self, line: str) -> float:
        """Takes note of a request; gives how many seconds it shall be held."""
        with self._lock:
            if self.sprung.is_set():
                return 0.0
            found = _OBJECT.match(line)
            if self.phase is Phase.DURING_STOP:
                if "/stop_request" in line and line.startswith("PUT"):
                    self.spring_within(1.0)
            elif self.phase is Phase.AT_THE_END:
                if "~succeeded~" in unquote(line) and line.startswith("PUT"):
                    self.spring_within(0.5)
            elif found and self.phase is Phase.BETWEEN_STAGES:
                if not found["checkpoint"] and found["name"] == _MARKER:
                    self.spring_within(2.0)
            elif found and found["checkpoint"]:
                return self._at_checkpoint(found["name"])
            return 0.0

    def _at_checkpoint(self, name: str) -> float:
        if name == _OWNER:
            self._files = 0
            if self.phase is Phase.MID_STEP:
                self._disarm()
            elif self.phase is Phase.MID_SAVE:
                self.spring_within(0.05)
        elif name == _MARKER:
            if self.phase is Phase.MID_STEP:
                self.spring_within(0.6)
            elif self.phase is Phase.BEFORE_COMMIT:
                return self._spring_now()
        else:
            self._files += 1
            if self.phase is Phase.MID_UPLOAD and self._files >= self._nth:
                return self._spring_now()
        return 0.0

    def spring_within(self, seconds: float) -> None:
        """Springs after a random part of so many seconds, unless it is disarmed before."""
        self._disarm()
        self._timer = Timer(self.draw.uniform(0, seconds), self.sprung.set)
        self._timer.daemon = True
        self._timer.start()

    def _spring_now(self) -> float:
        """In half of the cases the request is held, in the others it passes as the victim dies."""
        self.sprung.set()
        return 0.0 if self._passes else HELD_S

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()

    def close(self) -> None:
        """Springs no more."""
        self._disarm()

    def wait(self, seconds: float) -> bool:
        """Waits until it springs, so many seconds at most; whether it did."""
        return self.sprung.wait(seconds)
