"""`rouge`: the mean F1 of ROUGE-1, -2 and -L over all rows, by rouge-score, from 0 to 100.

Without stemming. rouge-score's own tokenizer drops all but Latin letters and digits, so words of
other scripts are added to those that it finds.
"""

from __future__ import annotations

from typing import Any

from workloads.evaluate.metrics import Measured, Row, Settings
from workloads.evaluate.metrics.words import Characters, Words

NAMES = ("rouge_1", "rouge_2", "rouge_l")

_OURS = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}


class Rouge:
    """Sums the rows' F1."""

    def __init__(self, level: str) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        tokenizer = Words() if level == "word" else Characters()
        self._scorer = RougeScorer(list(_OURS), tokenizer=tokenizer)
        self._rows, self._sums = 0, dict.fromkeys(_OURS.values(), 0.0)

    def add(self, row: Row) -> dict[str, Any]:
        """See `Metric`."""
        if row.label is None:
            return {}
        found = self._scorer.score(row.label, row.predict)
        scores = {_OURS[name]: 100 * score.fmeasure for name, score in found.items()}
        self._rows += 1
        for name, score in scores.items():
            self._sums[name] += score
        return scores

    def measured(self) -> Measured:
        """See `Metric`."""
        values = {name: value / self._rows for name, value in self._sums.items() if self._rows}
        return Measured(values, {"rouge": {"rows": self._rows}})


def metric(settings: Settings) -> Rouge:
    """The metric."""
    return Rouge(settings.level)
