"""Where the values of trials come from."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from jobs.errors import UserError
from jobs.spec.sweep import SweepSpec
from tests.unit.workloads.sweep.bench import make_spec
from workloads.sweep.search import Draws, Proposals, proposals
from workloads.sweep.trials import Trial, TrialState

RATE, DROPOUT, TARGETS = "training.learning_rate", "tuner.dropout", "tuner.target_modules"
SPACE: dict[str, dict[str, Any]] = {
    RATE: {"loguniform": [1e-6, 1.0]},
    DROPOUT: {"uniform": [0.0, 0.9]},
    TARGETS: {"choice": ["all-linear", ["q_proj", "v_proj"], ["q_proj"]]},
    "tuner.rank": {"randint": [1, 9]},
}


def _spec(search: str, samples: int = 100) -> SweepSpec:
    return make_spec(search=search, search_space=SPACE, num_samples=samples)


def _loss(values: Mapping[str, Any]) -> float:
    """Least at a rate of 1e-3 and a dropout of 0.3."""
    return (math.log10(values[RATE]) + 3) ** 2 + (5 * (values[DROPOUT] - 0.3)) ** 2


def _trial(index: int, values: Mapping[str, Any], loss: float | None) -> Trial:
    trial = Trial(index, dict(values), TrialState.FINISHED if loss is not None else
                  TrialState.FAILED)  # fmt: skip
    trial.reports = {} if loss is None else {4: {"eval_loss": loss}}
    return trial


def _run(search: Proposals, indices: Sequence[int]) -> list[Trial]:
    """Proposes and tells, one by one."""
    trials = []
    for index in indices:
        values = search.propose(index)
        trials.append(_trial(index, values, _loss(values)))
        search.tell(trials[-1], trials[-1].value("eval_loss"))
    return trials


def _best(trials: Sequence[Trial]) -> float:
    return min(_loss(trial.values) for trial in trials)


def test_draws_follow_from_seed_and_number_alone() -> None:
    search = proposals(_spec("random"), 7, [])
    assert isinstance(search, Draws)
    assert search.count == 100
    first = [search.propose(index) for index in range(5)]
    again = proposals(_spec("random"), 7, [_trial(0, first[0], 1.0)])
    assert [again.propose(index) for index in (4, 1)] == [first[4], first[1]]
    assert proposals(_spec("random"), 8, []).propose(0) != first[0]


@pytest.mark.parametrize(("search", "count"), [("optuna", 40), ("bayesopt", 9)])
def test_a_search_finds_a_minimum_sooner_than_chance(search: str, count: int) -> None:
    chance = [_best(_run(proposals(_spec("random"), s, []), range(count))) for s in range(8)]
    found = _run(proposals(_spec(search, count), 1, []), range(count))
    assert _best(found) < 0.5 * sorted(chance)[4]
    for trial in found:
        assert 1e-6 <= trial.values[RATE] <= 1.0
        assert trial.values["tuner.rank"] in range(1, 9)
        assert trial.values[TARGETS] in SPACE[TARGETS]["choice"]
    assert len({str(trial.values[TARGETS]) for trial in found}) > 1


def test_a_search_finds_a_maximum() -> None:
    spec = make_spec(search="optuna", search_space=SPACE, mode="max", num_samples=40)
    search = proposals(spec, 1, [])
    for index in range(40):
        values = search.propose(index)
        search.tell(_trial(index, values, 0.0), -_loss(values))
    last = search.propose(40)
    assert 1e-5 < last[RATE] < 1e-1


def test_proposals_are_the_same_for_a_seed() -> None:
    first, second = (_run(proposals(_spec("optuna"), 3, []), range(15)) for _ in range(2))
    assert [t.values for t in first] == [t.values for t in second]
    other = _run(proposals(_spec("optuna"), 4, []), range(15))
    assert all(a.values != b.values for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("stopped_at", [3, 12])
def test_a_sweep_that_goes_on_proposes_what_it_would_have(stopped_at: int) -> None:
    whole = _run(proposals(_spec("optuna"), 3, []), range(15))
    again = proposals(_spec("optuna"), 3, whole[:stopped_at])
    rest = _run(again, range(stopped_at, 15))
    assert [t.values for t in rest] == [t.values for t in whole[stopped_at:]]


def test_a_small_sweep_learns_too() -> None:
    """Of six trials, the first two are the same whatever they come to, and the others are not."""
    low, high = (proposals(_spec("optuna", 6), 3, []) for _ in range(2))
    for index in range(6):
        values = low.propose(index)
        assert (high.propose(index) == values) == (index < 2)
        low.tell(_trial(index, values, 1.0), float(values[RATE]))
        high.tell(_trial(index, values, 1.0), -float(values[RATE]))


def test_trials_of_an_earlier_attempt_are_learned_from() -> None:
    """With the rate of the best of them, which no other search is told."""
    known = _run(proposals(_spec("random"), 5, []), range(60))
    told = _run(proposals(_spec("optuna"), 5, known), range(60, 70))
    untold = _run(proposals(_spec("optuna"), 5, []), range(60, 70))
    assert sum(_loss(t.values) for t in told) < 0.5 * sum(_loss(t.values) for t in untold)


def test_trials_that_came_to_nothing_do_no_harm() -> None:
    spec = _spec("optuna")
    search = proposals(spec, 3, [_trial(0, {"rank": "of another space"}, None)])
    values = search.propose(1)
    failed = _trial(1, values, None)
    search.tell(failed, failed.value("eval_loss"))
    assert search.propose(2) != values
    interrupted = _trial(3, search.propose(3), 1.0)
    again = proposals(spec, 3, [])  # it was proposed by the attempt before, and ends in this one
    again.tell(interrupted, 1.0)
    assert again.propose(4)


@pytest.mark.parametrize("search", ["optuna", "bayesopt"])
def test_without_optuna_the_error_says_what_to_install(
    search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=f"search: {search} needs Optuna, which is not") as caught:
        proposals(_spec(search), 0, [])
    assert caught.value.remedy
    assert "raysmith[optuna]" in caught.value.remedy
    assert proposals(_spec("random"), 0, []).count == 100
