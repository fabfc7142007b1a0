"""Where the values of the next trial come from: drawn beforehand, or proposed by Optuna."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from jobs.errors import UserError
from jobs.plan.sweep import drawn, trial_count
from jobs.spec.sweep import DomainSpec, SweepSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from workloads.sweep.trials import Trial


_LEAST_DRAWN, _MOST_DRAWN = 2, 10
"""Trials that are drawn at random before a search begins to learn: a third of all, within these."""


class Proposals(Protocol):
    """Proposes the values of trials, counted from 0."""

    count: int
    """How many trials there are to be."""

    def propose(self, index: int) -> dict[str, Any]:
        """The values of a trial, by dotted path."""
        ...

    def tell(self, trial: Trial, value: float | None) -> None:
        """Takes what a trial came to; None where it came to nothing."""
        ...


class Draws:
    """Values that follow from the seed and the trial's index alone."""

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        self._spec, self._seed = spec, seed
        self.count = trial_count(spec)

    def propose(self, index: int) -> dict[str, Any]:
        """See `Proposals`."""
        return drawn(self._spec, self._seed, index)

    def tell(self, trial: Trial, value: float | None) -> None:
        """See `Proposals`. Draws learn nothing."""


class Optuna:
    """Values that follow from what earlier trials came to.

    `optuna`: tree-structured Parzen estimators (https://papers.nips.cc/paper/4443); `bayesopt`: a
    Gaussian process over the search space (https://arxiv.org/abs/1206.2944).
    """

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        samplers = {"optuna": optuna.samplers.TPESampler, "bayesopt": optuna.samplers.GPSampler}
        self._sampler, self._seed = samplers[spec.search], seed
        direction = "minimize" if spec.mode == "min" else "maximize"
        self._study = optuna.create_study(direction=direction)
        self._space = {path: _distribution(d) for path, d in spec.search_space.items()}
        self._choices = {path: d.choice for path, d in spec.search_space.items() if d.choice}
        self._asked: dict[int, Any] = {}
        self.count = trial_count(spec)
        # Optuna's own number, which is meant for a hundred trials, would leave few sweeps any
        # trial that is not drawn at random.
        self._drawn = min(_MOST_DRAWN, max(_LEAST_DRAWN, self.count // 3))

    def propose(self, index: int) -> dict[str, Any]:
        """See `Proposals`."""
        # Each trial has a seed of its own, so that a sweep which goes on neither repeats its first
        # draws nor depends on how often it was stopped.
        seed = Random(f"{self._seed}/{index}").getrandbits(32)
        self._study.sampler = self._sampler(seed=seed, n_startup_trials=self._drawn)
        asked = self._asked[index] = self._study.ask(self._space)
        # Optuna takes no lists and mappings as choices, so it chooses their places.
        return {
            path: self._choices[path][value] if path in self._choices else value
            for path, value in asked.params.items()
        }

    def tell(self, trial: Trial, value: float | None) -> None:
        """See `Proposals`. A trial of an earlier attempt is added to what is known."""
        from optuna.trial import TrialState, create_trial

        asked = self._asked.pop(trial.index, None)
        if asked is not None:
            state = None if value is not None else TrialState.FAIL
            self._study.tell(asked, value, state)
        elif value is not None:
            params = {
                path: list(self._choices[path]).index(given) if path in self._choices else given
                for path, given in trial.values.items()
            }
            known = create_trial(params=params, distributions=self._space, value=value)
            self._study.add_trial(known)


def proposals(spec: SweepSpec, seed: int, known: Iterable[Trial]) -> Proposals:
    """Where the values of a sweep's trials come from, told of those that have ended.

    Raises:
        UserError: if the search needs a library that is not installed.
    """
    if spec.search == "random":
        return Draws(spec, seed)
    try:
        search = Optuna(spec, seed)
    except ImportError as error:
        raise UserError(
            f"search: {spec.search} needs Optuna, which is not installed here: {error}",
            "pip install 'raysmith[optuna]', or choose search: random",
        ) from error
    for trial in known:
        search.tell(trial, trial.value(spec.metric))
    return search


def _distribution(domain: DomainSpec) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if domain.choice:
        return CategoricalDistribution(range(len(domain.choice)))
    low, high = domain.values
    if domain.randint:
        return IntDistribution(low, high - 1)
    return FloatDistribution(low, high, log=domain.loguniform is not None)
