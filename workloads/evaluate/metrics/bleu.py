"""`bleu`: BLEU-4 of the whole dataset, by sacrebleu, from 0 to 100.

Words are sacrebleu's `13a`, with Chinese cut into words first; characters are its `char`. The
dataset's BLEU is made of the rows' counts, and so is exactly sacrebleu's `corpus_score`. An empty
answer counts as one.
"""

from __future__ import annotations

from typing import Any

from workloads.evaluate.metrics import Measured, Row, Settings
from workloads.evaluate.metrics.words import spaced

NAMES = ("bleu",)

_ORDER = 4


class Bleu:
    """Sums the rows' counts of n-grams."""

    def __init__(self, level: str) -> None:
        from sacrebleu.metrics import BLEU

        self._is_words = level == "word"
        # Of a row that has fewer than four words, those n-grams that it can have.
        self._sentence = BLEU(tokenize="13a" if self._is_words else "char", effective_order=True)
        self._compute = BLEU.compute_bleu
        self._right, self._all = [0] * _ORDER, [0] * _ORDER
        self._was_cut = False
        self._predicted = self._labelled = self._rows = 0

    def add(self, row: Row) -> dict[str, Any]:
        """See `Metric`."""
        if row.label is None:
            return {}
        predict, label = row.predict, row.label
        if self._is_words:
            predict, label = spaced(predict), spaced(label)
            self._was_cut = self._was_cut or label != row.label or predict != row.predict
        score = self._sentence.sentence_score(predict, [label])
        self._right = [a + b for a, b in zip(self._right, score.counts, strict=True)]
        self._all = [a + b for a, b in zip(self._all, score.totals, strict=True)]
        self._predicted += score.sys_len
        self._labelled += score.ref_len
        self._rows += 1
        return {"bleu": score.score}

    def measured(self) -> Measured:
        """See `Metric`."""
        if not self._rows:
            return Measured({})
        # Smoothed as `corpus_score` does it by default.
        score = self._compute(
            self._right, self._all, self._predicted, self._labelled, smooth_method="exp"
        )
        signature = self._sentence.get_signature().format().replace("eff:yes", "eff:no")
        cut = "|words:rjieba" * self._was_cut
        details = {
            "signature": f"{signature}{cut}",
            "precisions": score.precisions,
            "brevity_penalty": score.bp,
            "rows": self._rows,
        }
        return Measured({"bleu": score.score}, {"bleu": details})


def metric(settings: Settings) -> Bleu:
    """The metric."""
    return Bleu(settings.level)
