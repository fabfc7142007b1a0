"""What Ray Tune is given in the place of its own searchers and schedulers.

Tune starts the turns that it is given, each as a trial, keeps their processes for the next ones,
and hands on what they report. It writes its own state to disk as well, by pickle; these leave
nothing in it, since the record of the trials is all that a sweep goes on from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from ray.tune import Callback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from workloads.sweep.conductor import Conductor
from workloads.sweep.trials import STEP
from workloads.sweep.turn import lost_turn

_LOOK_EVERY_S = 0.5


class _Unwritten:
    """Leaves nothing in a pickle, and is not copied."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class TuneSearcher(_Unwritten, Searcher):
    """Gives Tune the turns to run."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__(metric=conductor.spec.metric, mode=conductor.spec.mode)
        self._conductor = conductor
        self._turns: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """See `Searcher`."""
        trial = self._conductor.next_turn()
        if trial:
            self._turns[trial_id] = trial.index
            return {"index": trial.index, "values": dict(trial.values), "reported": trial.step}
        return str(Searcher.FINISHED) if self._conductor.is_over else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See `Searcher`. The scheduler has taken the result, unless the process was lost."""
        index = self._turns.pop(trial_id)
        if error:
            self._conductor.turn_over(index, lost_turn())

    def save(self, checkpoint_path: str) -> None:
        """See `Searcher`. The record of the trials is all the state there is."""


class TuneScheduler(_Unwritten, FIFOScheduler):
    """Takes Tune's results. Tune goes on with every turn until it says itself that it is over."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See `TrialScheduler`."""
        if "state" not in result:
            metrics = {key[len("metrics/") :]: value for key, value in result.items()
                       if key.startswith("metrics/")}  # fmt: skip
            self._conductor.reported(
                trial.config["index"], result[STEP], result["max_steps"], metrics
            )
        return str(self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See `TrialScheduler`."""
        self._conductor.turn_over(trial.config["index"], result)


class TuneWatch(_Unwritten, Callback):
    """Has somebody look at the sweep every half second."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look, self._looked = look, 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """See `Callback`. Tune calls it in every round of its loop."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._look()
            self._looked = time.monotonic()
