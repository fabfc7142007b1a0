"""The learning rate as a function of the step alone, so that a resume needs no state for it."""

from __future__ import annotations

import math

from jobs.spec.training import TrainingSpec


def warmup_steps(training: TrainingSpec, max_steps: int) -> int:
    """Steps over which the learning rate rises to its peak."""
    if training.warmup_steps is not None:
        return training.warmup_steps
    return math.ceil((training.warmup_ratio or 0.0) * max_steps)


def learning_rate(training: TrainingSpec, step: int, max_steps: int) -> float:
    """The rate of step `step`, counted from 0, as transformers' schedulers have it.

    It rises linearly to the peak over the warm-up, then falls to zero along half a cosine or a
    line, or stays.
    """
    peak, warmup = training.learning_rate or 0.0, warmup_steps(training, max_steps)
    if step < warmup:
        return peak * step / max(1, warmup)
    progress = (step - warmup) / max(1, max_steps - warmup)
    match training.lr_scheduler_type:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return peak * (1 - progress)
        case "constant":
            return peak
