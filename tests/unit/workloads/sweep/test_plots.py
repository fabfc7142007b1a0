"""The pictures of a sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.unit.workloads.sweep.bench import Sweep
from workloads.sweep.plots import _Column, draw
from workloads.sweep.trials import Trials, TrialState

PICTURES = {
    "parallel_coordinates.png", "metric_against_fields.png", "best_so_far.png", "curves.png",
}  # fmt: skip


def _trials(sweep: Sweep, rows: list[dict[str, Any]], mode: str) -> Trials:
    trials = sweep.trials(mode)
    for index, values in enumerate(rows):
        trial = trials.start(index, values)
        for step in (4, 8):
            trials.report(trial, step, 8, {"eval_loss": 1.0 / (step + index)})
        state = TrialState.STOPPED if index % 2 else TrialState.FINISHED
        trials.end(trial, state, 1.0)
    return trials


FIELDS: dict[str, list[Any]] = {
    "numbers": [0.1, 0.2, 0.15],
    "decades": [1e-5, 1e-3, 1e-2],
    "one": [8, 8, 8],
    "lists and nothing": ["all-linear", ["q_proj", "v_proj"], None],
    "truths and a number": [True, False, 1.5],
    "dollars": ["${stages.a.model} or ${stages.b.model}", "a$b", "_x^$ $y"],
    "long": ["be kind " * 60, "short\nand two lines", ""],
}


@pytest.mark.parametrize(("count", "mode"), [(3, "max"), (1, "min")])
def test_any_values_are_drawn(sweep: Sweep, tmp_path: Path, count: int, mode: str) -> None:
    rows = [{name: values[row] for name, values in FIELDS.items()} for row in range(count)]
    draw(_trials(sweep, rows, mode), tmp_path / "images")
    files = list((tmp_path / "images").iterdir())
    assert {file.name for file in files} == PICTURES
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_nothing_is_drawn_of_nothing(sweep: Sweep, tmp_path: Path) -> None:
    trials = sweep.trials()
    draw(trials, tmp_path / "images")
    trials.report(trials.start(0, {"a": 1}), 4, 8, {"eval_loss": math.nan})
    trials.report(trials.start(1, {"a": 1}), 4, 8, {"eval_loss": 1.0})
    trials.end(trials.trials[1], TrialState.FAILED, 1.0)
    draw(trials, tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_heights_are_even_on_the_scale_that_fits() -> None:
    assert _Column("a", [1.0, 2.0, 3.0]).heights == [0.0, 0.5, 1.0]
    assert _Column("a", [1e-4, 1e-3, 1e-2]).heights == pytest.approx([0.0, 0.5, 1.0])
    assert _Column("a", [-1, 0, 99]).heights == [0.0, 0.01, 1.0]
    assert _Column("a", ["x", "y", "x", "z"]).heights == [0.0, 0.5, 0.0, 1.0]
    assert _Column("a", [7, 7]).heights == [0.0, 0.0]
    assert _Column("a", [1e-4, 1e-2]).labels == [(0.0, "0.0001"), (1.0, "0.01")]
