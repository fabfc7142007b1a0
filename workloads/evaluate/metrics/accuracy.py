"""`accuracy`: the share of final answers that are right, compared as mathematics.

What is right is told by the reward of the same name, in processes of its own, since some answers
take a comparison forever. An answer that could not be compared counts as wrong, and is counted.
"""

from __future__ import annotations

from typing import Any

from workloads.evaluate.metrics import Measured, Row, Settings, mean

NAMES = ("accuracy",)


class Accuracy:
    """Counts answers that were found right."""

    def __init__(self) -> None:
        self._rows = self._failed = 0
        self._right = 0.0

    def add(self, row: Row) -> dict[str, Any]:
        """See `Metric`."""
        if row.solution is None or not row.solution.strip():
            return {}
        self._rows += 1
        self._failed += row.is_right is None
        self._right += row.is_right or 0.0
        return {"accuracy": row.is_right or 0.0}

    def measured(self) -> Measured:
        """See `Metric`."""
        details = {"rows": self._rows, "not_compared": self._failed}
        return Measured(dict(mean(self._right, self._rows, "accuracy")), {"accuracy": details})


def metric(settings: Settings) -> Accuracy:  # noqa: ARG001 - as all metrics are made
    """The metric."""
    return Accuracy()
