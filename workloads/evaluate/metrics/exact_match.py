"""`exact_match`: the share of answers that are the row's own.

Case, the form of characters (Unicode's NFKC, so full-width letters too) and white space make no
difference; punctuation does.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from workloads.evaluate.metrics import Measured, Row, Settings, mean

NAMES = ("exact_match",)


def normalized(text: str) -> str:
    """A text without what makes no difference."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class ExactMatch:
    """Counts answers that match."""

    def __init__(self) -> None:
        self._rows = self._matches = 0

    def add(self, row: Row) -> dict[str, Any]:
        """See `Metric`."""
        if row.label is None:
            return {}
        matches = normalized(row.predict) == normalized(row.label)
        self._rows += 1
        self._matches += matches
        return {"exact_match": float(matches)}

    def measured(self) -> Measured:
        """See `Metric`."""
        values = dict(mean(self._matches, self._rows, "exact_match"))
        return Measured(values, {"exact_match": {"rows": self._rows}})


def metric(settings: Settings) -> ExactMatch:  # noqa: ARG001 - as all metrics are made
    """The metric."""
    return ExactMatch()
