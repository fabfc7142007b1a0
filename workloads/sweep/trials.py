"""The trials of a sweep: what each was given, reported and came to, on disk and in memory.

The record is a file of JSON lines to which alone the sweep's driver adds. Whatever it is killed at,
the lines say which trials have ended, which go on, and what all of them have reported. Trials that
failed start again when the sweep is taken up again.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from jobs.masking import Mask, masked, masker
from jobs.observed import Clock, utc_now
from storage.durable import write_atomic

STEP = "global_step"
"""Where a training record says after which optimiser step it was made."""


class TrialState(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    PAUSED = "paused"
    """Its checkpoint waits until it is its turn again."""
    FINISHED = "finished"
    """It trained to its end."""
    STOPPED = "stopped"
    """It was ended early, since others were better or the sweep came to its end."""
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether the trial will not train any more."""
        return self not in (TrialState.RUNNING, TrialState.PAUSED)


@dataclass(eq=False)
class Trial:
    """One trial. Two of them are equal only if they are the same."""

    index: int
    """Counted from 0, in the order of drawing."""
    values: dict[str, Any]
    """What the search gave it, by dotted path into the stage."""
    state: TrialState = TrialState.RUNNING
    reports: dict[int, dict[str, float]] = field(default_factory=dict)
    """The metrics of each report, by the optimiser step it was made after."""
    max_steps: int | None = None
    seconds: float = 0.0
    recoveries: int = 0
    reason: str | None = None
    """Why it ended early or failed."""
    has_weights: bool = True
    """Whether checkpoints or a model may lie in its folder. Not recorded."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What population-based training made of it: `from_trial`, `step`, `values`."""

    @property
    def name(self) -> str:
        """What people and folders call it."""
        return f"trial_{self.index:04d}"

    @property
    def step(self) -> int:
        """The step of its last report; 0 before the first."""
        return max(self.reports, default=0)

    def value(self, metric: str) -> float | None:
        """Its last report of a metric; None where there is none, it is not finite, or the trial
        has failed."""
        if not self.reports or self.state is TrialState.FAILED:
            return None
        value = self.reports[self.step].get(metric)
        return value if value is not None and math.isfinite(value) else None


@dataclass
class Trials:
    """All trials of a sweep, and the file that holds them."""

    path: Path
    metric: str
    mode: Literal["min", "max"]
    now: Clock = utc_now
    trials: dict[int, Trial] = field(default_factory=dict)
    seconds_before: float = 0.0
    """How long earlier attempts at the sweep took, up to what they last recorded."""
    _mask: Mask = field(default_factory=lambda: masker((), os.environ), repr=False)

    def __post_init__(self) -> None:
        last = 0.0
        for event in _lines(self.path):
            # An attempt lasted from its first event to its last.
            self.seconds_before += 0.0 if event["event"] == "opened" else event["at"] - last
            self._apply(event)
            last = event["at"]
        self._file = self.path.open("a", encoding="utf-8")
        self._add("opened")

    def start(self, index: int, values: Mapping[str, Any]) -> Trial:
        """Records that a trial starts, or goes on, with these values."""
        self._add("started", trial=index, values=dict(values))
        return self.trials[index]

    def report(self, trial: Trial, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        """Records what a trial measured. What it had reported of this step and later ones goes:
        it went back to an earlier checkpoint since."""
        self._add(
            "report", trial=trial.index, step=step, max_steps=max_steps, metrics=dict(metrics)
        )

    def change(self, trial: Trial, donor: Trial, step: int, values: Mapping[str, Any]) -> None:
        """Records that a trial goes on from another's checkpoint, with other values."""
        self._add(
            "changed", trial=trial.index, from_trial=donor.index, step=step, values=dict(values)
        )

    def end(self, trial: Trial, state: TrialState, seconds: float, **more: Any) -> None:
        """Records that a trial has ended or is paused; `more` are other fields of `Trial`."""
        self._add("ended", trial=trial.index, state=state, seconds=seconds, **more)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends writing."""
        self._file.close()

    @property
    def ended(self) -> list[Trial]:
        """The trials that will not train any more."""
        return [trial for trial in self.trials.values() if trial.state.has_ended]

    @property
    def best(self) -> Trial | None:
        """The trial with the best last value, the earlier of two alike."""
        return self.best_of(self.trials.values())

    def best_of(self, trials: Iterable[Trial]) -> Trial | None:
        """The best of these trials; None where none has a value."""
        sign = 1 if self.mode == "min" else -1
        scored = [
            (sign * value, trial.index, trial)
            for trial in trials
            if (value := trial.value(self.metric)) is not None
        ]
        return min(scored)[2] if scored else None

    def is_better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Whether a value of the metric beats another by more than `by`."""
        return than - value > by if self.mode == "min" else value - than > by

    def write_table(self, path: Path) -> None:
        """Writes the trials as comma-separated values, a row to each."""
        fields = list(dict.fromkeys(p for trial in self.trials.values() for p in trial.values))
        metrics = {m for trial in self.trials.values() for report in trial.reports.values()
                   for m in report} - {self.metric}  # fmt: skip
        header = ["trial", "state", *fields, self.metric, "step", "max_steps", "seconds",
                  "recoveries", "reason", *sorted(metrics)]  # fmt: skip
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for trial in sorted(self.trials.values(), key=lambda trial: trial.index):
            last = trial.reports.get(trial.step, {})
            row = [trial.index, trial.state.value, *(_cell(trial.values.get(f)) for f in fields),
                   last.get(self.metric, ""), trial.step, trial.max_steps or "",
                   round(trial.seconds, 1), trial.recoveries, trial.reason or "",
                   *(last.get(metric, "") for metric in sorted(metrics))]  # fmt: skip
            writer.writerow(row)
        write_atomic(path, text.getvalue().encode())

    def _add(self, event: str, **fields: Any) -> None:
        line = masked({"event": event, "at": self.now().timestamp(), **fields}, self._mask)
        self._apply(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _apply(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "opened":
            for trial in self.trials.values():
                if trial.state is TrialState.FAILED:  # it starts again, from its beginning
                    trial.state, trial.reports = TrialState.PAUSED, {}
            return
        index = event["trial"]
        if event["event"] == "started":
            trial = self.trials.setdefault(index, Trial(index, event["values"]))
            trial.values, trial.state, trial.reason = event["values"], TrialState.RUNNING, None
            trial.has_weights = True
            return
        trial = self.trials[index]
        if event["event"] == "report":
            step = event["step"]
            trial.reports = {s: m for s, m in trial.reports.items() if s < step}
            trial.reports[step] = event["metrics"]
            trial.max_steps = event["max_steps"]
        elif event["event"] == "changed":
            trial.values = event["values"]
            trial.changes.append({k: event[k] for k in ("from_trial", "step", "values")})
        else:
            trial.state = TrialState(event["state"])
            trial.seconds += event["seconds"]
            trial.recoveries += event.get("recoveries", 0)
            trial.reason = event.get("reason")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """What a record holds; a last line that was cut off is taken off the file."""
    if not path.exists():
        return
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        write_atomic(path, whole + b"\n" if whole else b"")
    for line in whole.splitlines():
        yield json.loads(line)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value
