"""The process that Ray Tune keeps for each trial at work. It runs turns, one after another."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ray import tune

from workloads.sweep.turn import SweepTask, Turn
from workloads.train.crew import Crew


class Runner(tune.Trainable):
    """Tune's view of a turn. Its process and the train workers stay for the turns after it."""

    task: ClassVar[SweepTask]

    def setup(self, config: dict[str, Any]) -> None:
        """See `Trainable`."""
        self._crew = Crew(self.task.layout.scratch / f"crew-{os.getpid()}")
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """See `Trainable`. Blocks until there is a report, or the turn is over."""
        return self._turn.wait()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """See `Trainable`: the process is taken for another turn."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._turn = Turn(
            self.task, config["index"], config["values"], config["reported"], self._crew
        )


def runner(task: SweepTask) -> type[Runner]:
    """The class of runners for a sweep."""
    return type("SweepTrial", (Runner,), {"task": task})
