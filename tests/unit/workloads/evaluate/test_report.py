"""The report's files and table."""

from __future__ import annotations

import json
import math
from pathlib import Path

from jobs.spec.gate import Bound
from workloads.evaluate.confusion import draw_confusion
from workloads.evaluate.report import ModelReport, Verdict, plain, table, write_report

BASE = ModelReport("base", "org/base", {"accuracy": 0.25, "loss": 2.0, "f1": 0.5}, {"rows": 4})
TUNED = ModelReport("tuned", "./tuned", {"accuracy": 0.75, "loss": 1.5, "runtime": 3.0}, {})


def test_models_stand_side_by_side() -> None:
    assert table([BASE, TUNED]) == [
        ("", "base", "tuned", "difference"),
        ("accuracy", "0.2500", "0.7500", "+0.5000 better"),
        ("loss", "2", "1.5000", "-0.5000 better"),
        ("f1", "0.5000", "-", "-"),
        ("runtime", "-", "3", "-"),
    ]
    assert plain([BASE]).splitlines()[1] == "accuracy  0.2500"


def test_the_report_is_json_and_markdown(tmp_path: Path) -> None:
    nan = ModelReport("nan", "m", {"samples_per_second": math.nan}, {})
    verdict = Verdict("accuracy", Bound.parse(">= 0.6"), 0.25)
    assert str(verdict) == "accuracy is 0.2500, and must be >= 0.6"
    write_report(tmp_path, [BASE, nan], [verdict])
    content = json.loads((tmp_path / "evaluate_results.json").read_text())
    assert content["models"]["base"] == {
        "model": "org/base", "metrics": dict(BASE.values), "details": {"rows": 4},
    }  # fmt: skip
    assert content["models"]["nan"]["metrics"] == {"samples_per_second": None}
    assert content["gate"] == [
        {"metric": "accuracy", "bound": ">= 0.6", "value": 0.25, "met": False}
    ]
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "|  | base | nan | difference |" in lines
    assert "|---|---:|---:|---:|" in lines
    assert "- NOT met: accuracy is 0.2500, and must be >= 0.6" in lines


def test_a_confusion_matrix_is_a_picture(tmp_path: Path) -> None:
    classes = {
        "labels": ["a", "正面", "(none)"],
        "confusion_matrix": [[2, 1, 0], [0, 3, 1], [0] * 3],
    }
    draw_confusion(classes, tmp_path / "images" / "matrix.png")
    assert (tmp_path / "images" / "matrix.png").read_bytes().startswith(b"\x89PNG")
