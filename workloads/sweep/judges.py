"""Ray Tune's schedulers as judges: told of each report, they say whether the trial goes on.

They see candidates, not Tune's own trials, so that what an earlier attempt recorded can be told
them again before any trial runs, and so that what they decide is carried out by way of the trials'
own checkpoints. Tune's population-based training, for one, can't exploit a trial that trains with
Ray Train: Tune holds no checkpoint of it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pbt import _PBTTrialState

from jobs.spec.sweep import (
    AshaSpec,
    DomainSpec,
    HyperBandSpec,
    MedianSpec,
    PbtSpec,
    SweepSpec,
)
from workloads.sweep.trials import STEP

if TYPE_CHECKING:
    from workloads.sweep.trials import Trial

_VALUE = "value"
_NO_END = 10**9

Verdict = Literal["go on", "stop", "pause"]


@dataclass(eq=False)
class Candidate:
    """A trial as Tune's schedulers want to see it."""

    trial_id: str
    config: dict[str, Any]
    status: str = "RUNNING"
    experiment_tag: str = ""
    takeover: Takeover | None = None
    """What the last judgement made of it."""
    is_stopped: bool = False
    """Whether it was told to end; it may report once more before it does."""

    def is_finished(self) -> bool:
        """Whether it will not train any more."""
        return self.status == "TERMINATED"


class Takeover(NamedTuple):
    """Another trial to go on from, and with which values."""

    donor: int
    values: dict[str, Any]


class Judge:
    """Decides on trials by one of Tune's schedulers."""

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        # Tune's schedulers draw from these: brackets of HyperBand, donors and factors of PBT.
        random.seed(seed)
        np.random.seed(seed)
        self._scheduler = _scheduler(spec)
        self._candidates: dict[int, Candidate] = {}

    def add(self, trial: Trial) -> None:
        """Takes a trial that starts or goes on, with the values that it has now."""
        known = self._candidates.get(trial.index)
        if known:
            known.config, known.status = dict(trial.values), "RUNNING"
            return
        candidate = Candidate(str(trial.index), dict(trial.values))
        self._candidates[trial.index] = candidate
        self._scheduler.on_trial_add(self, candidate)

    def judge(self, trial: Trial, step: int, value: float) -> Verdict:
        """What becomes of a trial that has reported a value after so many steps."""
        candidate = self._candidates[trial.index]
        candidate.takeover = None
        # A comparison with NaN would keep the trial.
        candidate.is_stopped = candidate.is_stopped or value != value
        if candidate.is_stopped:
            return "stop"
        result = {STEP: step, _VALUE: value}
        decision = self._scheduler.on_trial_result(self, candidate, result)
        if decision == TrialScheduler.STOP:
            candidate.is_stopped = True
            return "stop"
        return "pause" if decision == TrialScheduler.PAUSE or candidate.takeover else "go on"

    def takeover(self, trial: Trial) -> Takeover | None:
        """What the last judgement wants the trial to go on from instead of its own checkpoint."""
        return self._candidates[trial.index].takeover

    def pause(self, trial: Trial) -> None:
        """Notes that a trial waits for its turn."""
        self._candidates[trial.index].status = "PAUSED"

    def end(self, trial: Trial) -> None:
        """Notes that a trial will not train any more."""
        self._candidates[trial.index].status = "TERMINATED"

    def get_trials(self) -> list[Candidate]:
        """All trials, as Tune's schedulers ask for them."""
        return list(self._candidates.values())

    def get_live_trials(self) -> Sequence[Candidate]:
        """Trials that wait, for which the median rule would interrupt others: none."""
        return ()


class _Population(PopulationBasedTraining):
    """Tune's population-based training; what it wants is written down, not carried out."""

    def on_trial_add(self, tune_controller: Judge, trial: Candidate) -> None:
        self._trial_state[trial] = _PBTTrialState(trial)

    def _checkpoint_or_exploit(
        self, trial: Candidate, tune_controller: Judge, upper_quantile: list[Candidate],
        lower_quantile: list[Candidate],
    ) -> None:  # fmt: skip
        if trial in lower_quantile:
            donor = random.choice(upper_quantile)
            values, _ = self._get_new_config(trial, donor)
            trial.takeover = Takeover(int(donor.trial_id), values)
            # Its score was that of weights which it gives up.
            self._trial_state[trial].last_score = None


def _scheduler(spec: SweepSpec) -> TrialScheduler:
    given = spec.scheduler
    common = {"metric": _VALUE, "mode": spec.mode, "time_attr": STEP}
    if isinstance(given, AshaSpec | HyperBandSpec):
        return ASHAScheduler(
            **common,
            max_t=_NO_END,
            grace_period=given.grace_period,
            reduction_factor=given.reduction_factor,
            brackets=given.brackets if isinstance(given, HyperBandSpec) else 1,
        )
    if isinstance(given, MedianSpec):
        return MedianStoppingRule(
            **common,
            grace_period=given.grace_period,
            min_samples_required=given.min_samples_required,
        )
    if isinstance(given, PbtSpec):
        return _Population(
            **common,
            perturbation_interval=given.perturbation_interval,
            hyperparam_mutations={
                path: _mutation(domain) for path, domain in spec.search_space.items()
            },
            quantile_fraction=given.quantile_fraction,
            resample_probability=given.resample_probability,
            perturbation_factors=given.perturbation_factors,
            custom_explore_fn=partial(_within, spec.search_space),
        )
    return FIFOScheduler()


def _mutation(domain: DomainSpec) -> Any:
    """What a field may be changed to, in Tune's terms."""
    if domain.name in ("uniform", "loguniform", "randint"):
        return getattr(tune, domain.name)(*domain.values)
    return list(domain.values)


def _within(space: Mapping[str, DomainSpec], values: dict[str, Any]) -> dict[str, Any]:
    """The values, brought back into their domains where a factor led out of them."""
    for path, domain in space.items():
        if domain.name in ("uniform", "loguniform", "randint"):
            low, high = domain.values
            highest = high - 1 if domain.name == "randint" else high
            values[path] = min(max(values[path], low), highest)
    return values
