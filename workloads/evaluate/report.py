"""The report of an evaluation: its files, and its numbers as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.spec.gate import Bound
from workloads.evaluate.metrics import LOWER_IS_BETTER

RESULTS, TABLE = "evaluate_results.json", "report.md"


@dataclass(frozen=True)
class ModelReport:
    """What one model came to."""

    name: str
    model: str
    """What the spec says of it."""
    values: Mapping[str, float]
    """Numbers by name."""
    details: Mapping[str, Any]
    """What else metrics have to say."""


@dataclass(frozen=True)
class Verdict:
    """What one line of the gate came to."""

    name: str
    bound: Bound
    value: float | None
    """None where it was not measured."""

    @property
    def holds(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value is not None and self.bound.holds(self.value)

    def __str__(self) -> str:
        return f"{self.name} is {shown(self.value)}, and must be {self.bound}"


def write_report(folder: Path, reports: Sequence[ModelReport], verdicts: Sequence[Verdict]) -> None:
    """Writes the numbers as JSON, and as a table for people."""
    content = {
        "models": {
            report.name: {
                "model": report.model,
                "metrics": {name: _finite(value) for name, value in report.values.items()},
                "details": report.details,
            }
            for report in reports
        },
        "gate": [
            {
                "metric": verdict.name,
                "bound": str(verdict.bound),
                "value": _finite(verdict.value),
                "met": verdict.holds,
            }
            for verdict in verdicts
        ],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")
    (folder / TABLE).write_text(_markdown(reports, verdicts), encoding="utf-8")


def values_of(reports: Sequence[ModelReport]) -> dict[str, float]:
    """All numbers by the names that a gate calls them: the first model's, and all as `NAME.X`."""
    named = {f"{r.name}.{name}": value for r in reports for name, value in r.values.items()}
    return {**reports[0].values, **named}


def read_values(folder: Path) -> dict[str, float]:
    """`values_of` what `write_report` wrote into a folder."""
    models = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["models"]
    reports = []
    for name, report in models.items():
        numbers = {key: math.nan if v is None else v for key, v in report["metrics"].items()}
        reports.append(ModelReport(name, report["model"], numbers, {}))
    return values_of(reports)


def table(reports: Sequence[ModelReport]) -> list[tuple[str, ...]]:
    """A line to each number, a column to each model; of several, how they differ from the first."""
    first, *others = reports
    lines = [("", first.name, *(text for each in others for text in (each.name, "difference")))]
    names = dict.fromkeys(name for report in reports for name in report.values)
    for name in names:
        cells = [shown(first.values.get(name))]
        for report in others:
            cells += [shown(report.values.get(name)), _difference(name, first, report)]
        lines.append((name, *cells))
    return lines


def plain(reports: Sequence[ModelReport]) -> str:
    """The table in aligned columns."""
    lines = table(reports)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(value: float | None) -> str:
    """A number in four digits or so; what is not there as a dash."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 10**9:
        return f"{value:.0f}" if abs(value) > 1 else f"{value:g}"
    return f"{value:.2f}" if abs(value) >= 100 else f"{value:.4f}"


def _difference(name: str, first: ModelReport, other: ModelReport) -> str:
    one, two = first.values.get(name), other.values.get(name)
    if one is None or two is None:
        return "-"
    difference = two - one
    if not difference:
        return "="
    is_better = (difference < 0) == (name in LOWER_IS_BETTER)
    return f"{difference:+.4f} {'better' if is_better else 'worse'}"


def _markdown(reports: Sequence[ModelReport], verdicts: Sequence[Verdict]) -> str:
    head, *lines = [f"| {' | '.join(line)} |" for line in table(reports)]
    rule = f"|---|{'---:|' * (head.count('|') - 2)}"
    models = [f"- `{report.name}`: {report.model}" for report in reports]
    gate = [f"- {'met' if each.holds else 'NOT met'}: {each}" for each in verdicts]
    parts = ["# Evaluation", "", *models, "", head, rule, *lines]
    return "\n".join([*parts, *(["", "Gate:", "", *gate] if gate else [])]) + "\n"


def _finite(value: float | None) -> float | None:
    # JSON has no NaN.
    return value if value is not None and math.isfinite(value) else None
