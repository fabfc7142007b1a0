"""How a stage works: the code that runs on the cluster, a folder to each family of stages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Workload:
    """Where the code of a stage kind is, as `module:function`."""

    check: str
    """Looks at the stage's inputs before anything runs. Imports nothing heavy."""
    run: str
    """Runs one attempt."""
    hold: str | None = None
    """Looks whether an artifact that is there already is what the plan demands now, where it can
    demand more of the same artifact."""
    exclusive: bool = False
    """Whether no other stage may run at the same time, since it sets what the whole process shares,
    or takes all the room that there is."""


WORKLOADS = {
    "sft": Workload(check="workloads.train.check:check", run="workloads.train.run:run"),
    "grpo": Workload(check="workloads.grpo.check:check", run="workloads.grpo.run:run"),
    "sweep": Workload(
        check="workloads.sweep.check:check",
        run="workloads.sweep.run:run",
        # It sets Ray Tune's environment variables, and makes as many trials as the cluster holds.
        exclusive=True,
    ),
    "evaluate": Workload(
        check="workloads.evaluate.check:check",
        run="workloads.evaluate.run:run",
        hold="workloads.evaluate.gate:hold",
    ),
    "merge": Workload(check="workloads.merge.check:check", run="workloads.merge.run:run"),
    "export": Workload(check="workloads.export.check:check", run="workloads.export.run:run"),
    "sample": Workload(check="workloads.sample.check:check", run="workloads.sample.run:run"),
    "serve": Workload(check="workloads.serve.check:check", run="workloads.serve.run:run"),
}


def load_function(place: str) -> Any:
    """The function at `module:function`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
