"""Objectives by stage kind. A new one is a module with `objective`, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, cast

from torch import Tensor

from workloads.train.batches import MicroBatch

OBJECTIVES = {"sft": "workloads.train.objectives.sft:objective"}


class Objective(NamedTuple):
    """What an objective makes of a micro-batch. Sums, so that they add up over a global batch."""

    loss: Tensor
    """() sum of the tokens' losses; gradients flow from it."""
    correct: Tensor
    """() number of learned tokens that were the likeliest."""


ObjectiveFunction = Callable[[Callable[..., Any], MicroBatch], Objective]


def load_objective(kind: str) -> ObjectiveFunction:
    """The objective of a stage kind."""
    module, _, name = OBJECTIVES[kind].partition(":")
    return cast(ObjectiveFunction, getattr(import_module(module), name))
