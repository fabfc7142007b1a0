"""What is measured of answers. A new metric is a module with `NAMES` and `Metric`, and a line here.

Rows come one by one, and nothing of them is kept but counts, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

from workloads.generate.answers import Score

METRICS = {
    "loss": "workloads.evaluate.metrics.loss",
    "exact_match": "workloads.evaluate.metrics.exact_match",
    "accuracy": "workloads.evaluate.metrics.accuracy",
    "bleu": "workloads.evaluate.metrics.bleu",
    "rouge": "workloads.evaluate.metrics.rouge",
    "classification": "workloads.evaluate.metrics.classification",
}

SPEED = ("model_preparation_time", "runtime", "samples_per_second", "steps_per_second")
"""Measured of every model. Seconds until an engine was ready, seconds since then; rows, and chunks
of rows, in a second of those."""

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "runtime", "model_preparation_time"})
"""The numbers of which less is better."""


@dataclass(frozen=True)
class Row:
    """One row, and what came of it."""

    predict: str
    """The model's answer; empty where the engine refused to ask for one."""
    label: str | None
    """What the row itself answers."""
    solution: str | None
    """What the final answer is compared with."""
    score: Score | None = None
    """How likely the model finds the row's own answer."""
    is_right: float | None = None
    """Whether the final answer is right, 0 or 1, where that was asked for."""


@dataclass(frozen=True)
class Settings:
    """What a stage says of its metrics."""

    level: str = "word"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a metric came to."""

    values: dict[str, float]
    """By name; a name of `NAMES` is missing where no row had what it takes."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else there is to say, as JSON."""


class Metric(Protocol):
    """One metric over the rows of a dataset."""

    def add(self, row: Row) -> dict[str, Any]:
        """Counts a row. Returns what is to be kept beside it: nothing where it does not count."""

    def measured(self) -> Measured:
        """What all rows come to."""


class _Module(Protocol):
    NAMES: tuple[str, ...]

    def metric(self, settings: Settings) -> Metric: ...


def _module(name: str) -> _Module:
    return cast(_Module, import_module(METRICS[name]))


def load_metric(name: str, settings: Settings) -> Metric:
    """A metric by name, one of `METRICS`. Imports the library that computes it."""
    return _module(name).metric(settings)


def value_names(metrics: Iterable[str]) -> list[str]:
    """The names of all numbers that metrics come to. Imports no library."""
    return [value for name in metrics for value in _module(name).NAMES]


def mean(total: float, count: int, name: str) -> Mapping[str, float]:
    """A mean by name, where there is anything to take it of."""
    return {name: total / count} if count else {}
