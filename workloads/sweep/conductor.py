"""Decides what runs next and what becomes of it. Ray Tune is told by `adapters.py`.

A trial runs in turns. To Tune each turn is a trial of its own, which starts, reports and ends: so
a trial that is paused gives its place to another, and goes on later from its checkpoint, by the
same way on which it goes on after the driver was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs.errors import RaysmithError, UserError
from jobs.spec.sweep import PbtSpec, SweepSpec
from jobs.state import FailureClass
from storage.durable import write_atomic
from storage.layout import StageLayout
from workloads.sweep.takeover import Takeover, write_takeover
from workloads.sweep.trials import Trial, Trials, TrialState

if TYPE_CHECKING:
    from workloads.sweep.judges import Judge
    from workloads.sweep.search import Proposals

_HOUR_S = 3600


@dataclass
class Conductor:
    """A sweep in progress."""

    spec: SweepSpec
    layout: StageLayout
    trials: Trials
    proposals: Proposals
    judge: Judge
    gpus_per_trial: float
    on_end: Callable[[Conductor, Trial], None]
    """Told of each trial that will not train any more."""
    clock: Callable[[], float] = time.monotonic
    at_work: dict[int, float] = field(default_factory=dict)
    """The trials whose turn it is, and since when by the clock."""
    ending: str | None = None
    """Why no trial starts any more, once that is so."""
    failure: RaysmithError | None = None
    interrupted: bool = False
    """Whether the job was asked to stop: what runs is to go on another time."""
    failed_here: int = 0
    _began: float = 0.0
    _without_better: int = 0
    _gpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.clock()
        for trial in sorted(self.trials.trials.values(), key=lambda trial: trial.index):
            self.judge.add(trial)
            for step, metrics in trial.reports.items():
                self.judge.judge(trial, step, metrics[self.spec.metric])
            if trial.state.has_ended:
                self.judge.end(trial)
            else:
                self.judge.pause(trial)
            self._gpu_seconds += trial.seconds * self.gpus_per_trial

    # --- what runs next

    def next_turn(self) -> Trial | None:
        """The trial whose turn it is; None when none is to start now."""
        self._look_at_budget()
        if self.ending:
            return self._begin(self._last) if self._last else None
        waiting = [t for t in self.trials.trials.values() if self._waits(t)]
        is_population = isinstance(self.spec.scheduler, PbtSpec)
        # A population is whole before any of it goes on; otherwise what was begun is ended first.
        if waiting and not (is_population and self._has_more):
            turn = min(waiting, key=lambda trial: (trial.step, trial.index))
            return self._begin(turn)
        if self._has_more:
            index = len(self.trials.trials)
            return self._begin(Trial(index, self.proposals.propose(index)))
        return None

    def _begin(self, turn: Trial) -> Trial:
        trial = self.trials.start(turn.index, turn.values)
        self.judge.add(trial)
        self.at_work[trial.index] = self.clock()
        return trial

    @property
    def is_over(self) -> bool:
        """Whether no trial will have a turn any more."""
        if self.at_work:
            return False
        if self.ending:
            return self._last is None
        return not (self._has_more or any(map(self._waits, self.trials.trials.values())))

    @property
    def _last(self) -> Trial | None:
        """The trial that has a turn after the end: the best, where it waits, to leave its model."""
        best = self.trials.best
        if self.interrupted or self.failure or best is None or not self._waits(best):
            return None
        return best

    @property
    def _has_more(self) -> bool:
        return len(self.trials.trials) < self.proposals.count

    def _waits(self, trial: Trial) -> bool:
        return not trial.state.has_ended and trial.index not in self.at_work

    # --- what becomes of it

    def reported(self, index: int, step: int, max_steps: int, metrics: Mapping[str, float]) -> None:
        """Takes a trial's report, and orders it to end where the judge says so."""
        trial = self.trials.trials[index]
        self.trials.report(trial, step, max_steps, metrics)
        verdict = self.judge.judge(trial, step, metrics[self.spec.metric])
        scheduler = self.spec.scheduler
        if isinstance(scheduler, PbtSpec) and step >= scheduler.perturbation_interval:
            # The judge knows nothing of those who have not begun.
            verdict = "pause" if self._has_more else verdict
        if step >= max_steps or self.ending:
            return
        if verdict == "pause":
            if wanted := self.judge.takeover(trial):
                donor = self.trials.trials[wanted.donor]
                self.trials.change(trial, donor, donor.step, wanted.values)
                write_takeover(self.layout.trial(index), Takeover(donor.index, donor.step))
            self._order(trial, TrialState.PAUSED, "its turn is over")
        elif verdict == "stop":
            value = metrics[self.spec.metric]
            is_number = value == value
            reason = f"{self.spec.scheduler.type}: others were better" if is_number else "diverged"
            self._order(trial, TrialState.STOPPED, reason)

    def turn_over(self, index: int, ended: Mapping[str, Any]) -> None:
        """Takes how a trial's turn ended; `ended` is what `Turn.outcome` gives."""
        trial = self.trials.trials[index]
        del self.at_work[index]
        self._gpu_seconds += ended["seconds"] * self.gpus_per_trial
        more = {"recoveries": ended["recoveries"], "reason": ended["reason"]}
        before = self.trials.best_of(self.trials.ended)
        was = before.value(self.spec.metric) if before else None
        self.trials.end(trial, TrialState(ended["state"]), ended["seconds"], **more)
        if trial.state is TrialState.PAUSED:
            self.judge.pause(trial)
            return
        self.judge.end(trial)
        self.proposals.tell(trial, trial.value(self.spec.metric))
        if trial.state is TrialState.FAILED:
            self._take_failure(trial, ended)
        self._look_at_plateau(trial, was)
        self.on_end(self, trial)

    def interrupt(self) -> None:
        """Lets every trial commit where it is, to go on another time."""
        if not self.interrupted:
            self.interrupted = True
            self._close("asked to stop")

    def look(self) -> None:
        """Ends the sweep where its time is over; called again and again."""
        self._look_at_budget()
        # An order that came before the trial was ready for it is given again.
        if self.ending:
            self._order_all()

    @property
    def seconds(self) -> float:
        """How long the sweep has taken, over all attempts."""
        return float(self.trials.seconds_before + self.clock() - self._began)

    @property
    def gpu_seconds(self) -> float:
        """The seconds that trials have had GPUs, each times its GPUs, over all attempts."""
        at_work = sum(self.clock() - since for since in self.at_work.values())
        return self._gpu_seconds + at_work * self.gpus_per_trial

    def _take_failure(self, trial: Trial, ended: Mapping[str, Any]) -> None:
        self.failed_here += 1
        text = f"{trial.name} failed: {trial.reason}"
        if ended["is_common"]:
            self._fail(UserError(text, ended["remedy"]))
        elif self.failed_here > self.spec.max_failed_trials:
            kind = UserError if ended["class"] == FailureClass.USER_ERROR else RaysmithError
            self._fail(
                kind(
                    f"{self.failed_here} trials failed, more than max_failed_trials: "
                    f"{self.spec.max_failed_trials} allows; the last: {text}",
                    ended["remedy"] or f"see {self.layout.trial(trial.index).folder}",
                )
            )

    def _fail(self, error: RaysmithError) -> None:
        if not self.failure:
            self.failure = error
            self._close("too many trials failed")

    def _look_at_budget(self) -> None:
        budget = self.spec.budget
        if self.ending:
            return
        if budget.time_s and self.seconds >= budget.time_s:
            self._close(f"the budget of {budget.time_s:g} s is spent")
        elif budget.gpu_hours and self.gpu_seconds >= budget.gpu_hours * _HOUR_S:
            self._close(f"the budget of {budget.gpu_hours:g} GPU hours is spent")

    def _look_at_plateau(self, trial: Trial, before: float | None) -> None:
        plateau, value = self.spec.plateau, trial.value(self.spec.metric)
        if not plateau:
            return
        is_better = value is not None and (
            before is None or self.trials.is_better(value, before, plateau.min_delta)
        )
        self._without_better = 0 if is_better else self._without_better + 1
        if self._without_better >= plateau.trials:
            self._close(f"{plateau.trials} trials in a row brought nothing better")

    def _close(self, reason: str) -> None:
        if not self.ending:
            self.ending = reason
            self._order_all()

    def _order_all(self) -> None:
        state = TrialState.PAUSED if self.interrupted or self.failure else TrialState.STOPPED
        for index in self.at_work:
            self._order(self.trials.trials[index], state, self.ending or "")

    def _order(self, trial: Trial, state: TrialState, reason: str) -> None:
        """Asks a trial to commit where it is and end its turn."""
        layout = self.layout.trial(trial.index)
        if layout.stop_request.exists():
            return
        layout.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(layout.order, f"{state.value}\n{reason}".encode())
        layout.stop_request.touch()
