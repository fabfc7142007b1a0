"""The gate: what numbers must be for the stages behind to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import GateNotMet, UserError
from jobs.plan.resolve import StagePlan
from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.gate import Bound
from workloads.evaluate.report import RESULTS, Verdict, read_values


def judge(gate: Mapping[str, str], values: Mapping[str, float]) -> list[Verdict]:
    """What each line of the gate comes to."""
    return [Verdict(name, Bound.parse(bound), values.get(name)) for name, bound in gate.items()]


def demand(verdicts: Sequence[Verdict], report: Path) -> None:
    """Lets pass what keeps every bound. `report` is the folder of the numbers.

    Raises:
        UserError: if one is on what was not measured.
        GateNotMet: if one is not kept.
    """
    missing = [verdict.name for verdict in verdicts if verdict.value is None]
    if missing:
        raise UserError(
            f"the gate asks for {', '.join(missing)}, which was not measured",
            f"what was measured is in {report / RESULTS}",
        )
    broken = [verdict for verdict in verdicts if not verdict.holds]
    if broken:
        raise GateNotMet(
            f"the gate is not passed: {'; '.join(map(str, broken))}",
            f"train a better model, or change the gate; all numbers are in {report / RESULTS}",
        )


def hold(stage: StagePlan, artifact: Path) -> None:
    """Holds a report that is there already to the gate as it is now.

    Raises:
        GateNotMet: if it does not pass.
        UserError: if the gate asks for what it does not have.
    """
    assert isinstance(stage.spec, EvaluateSpec)
    if stage.spec.gate:
        demand(judge(stage.spec.gate, read_values(artifact)), artifact)
