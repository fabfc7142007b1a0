"""How often a training stage saves its state, and how many saves are kept."""

from __future__ import annotations

from pydantic import PositiveInt

from jobs.spec.fields import Spec


class CheckpointSpec(Spec):
    """Checkpoints are exact: a run that goes on from one follows the uninterrupted run."""

    save_steps: PositiveInt = 50
    """Steps from one checkpoint to the next. The last step is always saved."""
    save_total_limit: PositiveInt | None = 2
    """How many checkpoints are kept, the newest ones; all of them with `null`."""
