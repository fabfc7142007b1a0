"""Reports held to a gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import ExitCode, GateNotMet, UserError
from jobs.plan.resolve import StagePlan
from jobs.spec.evaluation import EvaluateSpec
from workloads.evaluate.gate import hold
from workloads.evaluate.report import ModelReport, write_report

REPORTS = [
    ModelReport("base", "org/base", {"accuracy": 0.25, "loss": float("nan")}, {}),
    ModelReport("tuned", "org/tuned", {"accuracy": 0.75, "loss": 1.0}, {}),
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    write_report(tmp_path, REPORTS, [])
    return tmp_path


def stage(**gate: str) -> StagePlan:
    spec = EvaluateSpec.model_validate(
        {
            "kind": "evaluate",
            "models": {"base": "org/base", "tuned": "org/tuned"},
            "dataset": {"test": ["rows.jsonl"]},
            "gate": gate,
        }
    )
    return StagePlan("check", spec, (), {}, "report")


def test_the_first_model_is_held_and_others_by_name(report: Path) -> None:
    hold(stage(), report)
    hold(stage(**{"accuracy": ">= 0.25", "tuned.accuracy": "> 0.5"}), report)
    with pytest.raises(GateNotMet) as caught:
        hold(
            stage(**{"accuracy": ">= 0.6", "tuned.accuracy": "> 0.5", "tuned.loss": "< 1"}), report
        )
    assert caught.value.message == (
        "the gate is not passed: accuracy is 0.2500, and must be >= 0.6; "
        "tuned.loss is 1, and must be < 1"
    )
    assert "evaluate_results.json" in str(caught.value.remedy)
    assert caught.value.exit_code is ExitCode.FAILED


def test_a_number_that_is_none_passes_no_bound(report: Path) -> None:
    for bound in (">= 0", "< 0"):
        with pytest.raises(GateNotMet):
            hold(stage(loss=bound), report)


def test_what_was_not_measured_is_named(report: Path) -> None:
    asked = stage(bleu="> 1")
    with pytest.raises(UserError, match="asks for bleu, which was not measured"):
        hold(asked, report)
