"""A small sweep, its record and a clock that is set by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.spec.sweep import SweepSpec
from storage.layout import RunLayout, StageLayout
from workloads.sweep.trials import Trials


@dataclass
class Seconds:
    """A clock that is set by hand, as seconds and as a time."""

    passed: float = 0.0

    def __call__(self) -> float:
        return self.passed

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed)


@dataclass
class Sweep:
    """The folder of a sweep, and what its record is opened with."""

    folder: Path
    clock: Seconds = field(default_factory=Seconds)
    opened: list[Trials] = field(default_factory=list)

    @property
    def layout(self) -> StageLayout:
        return RunLayout(self.folder / "runs" / "job" / "r1").stage("sweep")

    def trials(self, mode: Any = "min") -> Trials:
        """Opens the record, as a driver does that was started."""
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        self.opened.append(Trials(self.layout.trials_jsonl, "eval_loss", mode, self.clock.now))
        return self.opened[-1]


def make_spec(**fields: Any) -> SweepSpec:
    """A spec of a sweep over learning rate and rank, with other fields by name."""
    given: dict[str, Any] = {
        "kind": "sweep",
        "trial": {
            "kind": "sft",
            "model": "smollm2-135m-instruct",
            "dataset": {"train": ["rows.jsonl"], "validation": 2},
            "training": {"max_steps": 32, "eval_steps": 4},
            "checkpoint": {"save_steps": 4},
        },
        "search_space": {
            "training.learning_rate": {"loguniform": [1e-5, 1e-2]},
            "tuner.rank": {"choice": [4, 8]},
        },
        "metric": "eval_loss",
        "mode": "min",
        "num_samples": 4,
    }
    return SweepSpec.model_validate(given | fields)
