"""`loss`: how likely the model finds what the rows' assistants say.

Averaged over all tokens that SFT would learn, as its `eval_loss` and `eval_token_acc` are.
"""

from __future__ import annotations

import math
from typing import Any

from workloads.evaluate.metrics import Measured, Row, Settings

NAMES = ("loss", "perplexity", "token_acc")

_LARGEST_EXPONENT = 700.0


class Loss:
    """Sums losses over tokens."""

    def __init__(self) -> None:
        self._rows = self._tokens = self._right = 0
        self._sum = 0.0

    def add(self, row: Row) -> dict[str, Any]:
        """See `Metric`."""
        score = row.score
        if not score or not score.tokens:
            return {}
        self._rows += 1
        self._tokens += score.tokens
        self._right += score.right
        self._sum += score.loss_sum
        return {"loss": score.loss_sum / score.tokens, "token_acc": score.right / score.tokens}

    def measured(self) -> Measured:
        """See `Metric`."""
        details = {"rows": self._rows, "tokens": self._tokens}
        if not self._tokens:
            return Measured({}, {"loss": details})
        loss = self._sum / self._tokens
        values = {
            "loss": loss,
            "perplexity": math.exp(min(loss, _LARGEST_EXPONENT)),
            "token_acc": self._right / self._tokens,
        }
        return Measured(values, {"loss": details})


def metric(settings: Settings) -> Loss:  # noqa: ARG001 - as all metrics are made
    """The metric."""
    return Loss()
