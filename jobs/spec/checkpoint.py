"""How often a training stage saves its state, and how many saves are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from jobs.spec.fields import Spec


class CheckpointSpec(Spec):
    """Checkpoints are exact: a run that goes on from one follows the uninterrupted run."""

    save_steps: PositiveInt = 50
    """Steps from one checkpoint to the next. The last step is always saved."""
    save_total_limit: PositiveInt | None = 2
    """How many checkpoints are kept, the newest ones; all of them with `null`."""
    load_best_model_at_end: bool = False
    """Leaves the model of the checkpoint with the best validation, not that of the last one. The
    best one so far is kept besides `save_total_limit`. For stages with validation rows."""
    metric_for_best_model: Literal["eval_loss", "eval_token_acc"] = "eval_loss"
    """What is best: the least `eval_loss`, or the greatest `eval_token_acc`."""

    @property
    def greater_is_better(self) -> bool:
        """Whether the best checkpoint is the one with the greatest value."""
        return self.metric_for_best_model == "eval_token_acc"
