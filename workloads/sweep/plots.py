"""Pictures of a sweep: what each field does to the metric, and how the best came about."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.sweep.trials import Trial, Trials, TrialState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG_FROM = 20.0
"""A field whose largest value is so many times its smallest is drawn on a logarithmic axis."""

_LONGEST = 32
"""Letters that are shown of a value."""

_MARKS = {TrialState.FINISHED: "o", TrialState.STOPPED: "x"}


def draw(trials: Trials, folder: Path) -> None:
    """Draws parallel coordinates, the metric against each field, the best so far, and the curves.

    Trials without a value of the metric are left out.
    """
    scored = [t for t in trials.trials.values() if t.value(trials.metric) is not None]
    if not scored:
        return
    folder.mkdir(parents=True, exist_ok=True)
    fields = list(dict.fromkeys(path for trial in scored for path in trial.values))
    _save(_parallel(trials, scored, fields), folder / "parallel_coordinates.png")
    _save(_against(trials, scored, fields), folder / "metric_against_fields.png")
    _save(_best_so_far(trials, scored), folder / "best_so_far.png")
    _save(_curves(trials, scored), folder / "curves.png")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)


def _figure(width: float = 8, height: float = 5) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _value(trials: Trials, trial: Trial) -> float:
    value = trial.value(trials.metric)
    assert value is not None
    return value


def _parallel(trials: Trials, scored: list[Trial], fields: list[str]) -> Figure:
    """A line to each trial, across an axis to each field and one to the metric."""
    from matplotlib import colormaps

    figure = _figure(max(8, 2 * len(fields) + 2))
    axes = figure.subplots()
    columns = [_Column(path, [trial.values.get(path) for trial in scored]) for path in fields]
    columns.append(_Column(trials.metric, [_value(trials, trial) for trial in scored]))
    colours = colormaps["viridis" if trials.mode == "max" else "viridis_r"]
    best = trials.best
    for row, trial in enumerate(scored):
        heights = [column.heights[row] for column in columns]
        is_best = trial is best
        axes.plot(
            range(len(columns)), heights, color=colours(columns[-1].heights[row]),
            alpha=1.0 if is_best else 0.6, linewidth=3 if is_best else 1,
            label=f"{trial.name}, the best" if is_best else None,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [column.name for column in columns], rotation=15)
    axes.set_yticks([])
    for place, column in enumerate(columns):
        axes.axvline(place, color="grey", linewidth=0.5)
        for height, text in column.labels:
            axes.annotate(text, (place, height), fontsize=8, xytext=(3, 0),
                          textcoords="offset points", va="center")  # fmt: skip
    if best in scored:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1))
    return figure


class _Column:
    """One axis of the parallel coordinates: each value's height from 0 to 1."""

    def __init__(self, name: str, values: list[Any]) -> None:
        self.name = name
        if all(map(_is_number, values)):
            scale = math.log10 if _is_wide(values) else float
            low, high = min(map(scale, values)), max(map(scale, values))
            span = (high - low) or 1.0
            self.heights = [(scale(value) - low) / span for value in values]
            ends = {0.0: min(values), (high - low) / span: max(values)}
            self.labels = [(height, f"{value:.4g}") for height, value in ends.items()]
        else:
            names = list(dict.fromkeys(map(str, values)))
            steps = max(len(names) - 1, 1)
            self.heights = [names.index(str(value)) / steps for value in values]
            self.labels = [(names.index(name) / steps, _text(name)) for name in names]


def _against(trials: Trials, scored: list[Trial], fields: list[str]) -> Figure:
    """The metric against each field, a picture to each."""
    columns = min(len(fields), 3)
    rows = -(-len(fields) // columns)
    figure = _figure(5 * columns, 4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(fields):
            axes.set_visible(False)
            continue
        _scatter(axes, trials, scored, fields[place])
    return figure


def _scatter(axes: Axes, trials: Trials, scored: list[Trial], path: str) -> None:
    given = [trial.values.get(path) for trial in scored]
    is_number = all(map(_is_number, given))
    for state, mark in _MARKS.items():
        points = [
            (trial.values.get(path), _value(trials, trial))
            for trial in scored
            if trial.state is state
        ]
        if points:
            across, up = zip(*points, strict=True)
            across = across if is_number else tuple(map(_text, across))
            axes.plot(across, up, mark, label=state.value)
    if is_number and _is_wide(given):
        axes.set_xscale("log")
    axes.set_xlabel(path)
    axes.set_ylabel(trials.metric)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def _best_so_far(trials: Trials, scored: list[Trial]) -> Figure:
    """Each trial's value in the order of drawing, and the best up to it."""
    figure = _figure()
    axes = figure.subplots()
    ordered = sorted(scored, key=lambda trial: trial.index)
    values = [_value(trials, trial) for trial in ordered]
    best = min if trials.mode == "min" else max
    so_far = [best(values[: place + 1]) for place in range(len(values))]
    indices = [trial.index for trial in ordered]
    axes.plot(indices, values, "o", alpha=0.5, label="trial")
    axes.step(indices, so_far, where="post", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(trials.metric)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _curves(trials: Trials, scored: list[Trial]) -> Figure:
    """The metric over the steps, a line to each trial."""
    figure = _figure()
    axes = figure.subplots()
    for trial in scored:
        points = [(s, m[trials.metric]) for s, m in trial.reports.items() if trials.metric in m]
        steps, values = zip(*points, strict=True)
        is_best = trial is trials.best
        axes.plot(steps, values, marker=".", linewidth=2.5 if is_best else 1,
                  alpha=1.0 if is_best else 0.5,
                  label=f"{trial.name}, the best" if is_best else None)  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(trials.metric)
    axes.grid(alpha=0.3)
    if trials.best in scored:
        axes.legend()
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    """A value in few letters, of which none is taken for mathematics."""
    text = " ".join(str(value).split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return text.replace("$", r"\$")


def _is_wide(values: list[Any]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= _LOG_FROM
