"""What Ray Tune's schedulers decide on trials, seen through the judge."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jobs.spec.sweep import SweepSpec
from tests.unit.workloads.sweep.bench import make_spec
from workloads.sweep.judges import Judge, Verdict
from workloads.sweep.trials import Trial

ASHA = {"type": "asha", "grace_period": 4, "reduction_factor": 2}
PBT = {"type": "pbt", "perturbation_interval": 4, "quantile_fraction": 0.25}
RATE, RANK = "training.learning_rate", "tuner.rank"


def _judge(spec: SweepSpec, count: int, seed: int = 0) -> tuple[Judge, list[Trial]]:
    judge = Judge(spec, seed)
    trials = [Trial(index, {RATE: 0.004 / (index % 3 + 1), RANK: 4}) for index in range(count)]
    for trial in trials:
        judge.add(trial)
    return judge, trials


def _rung(judge: Judge, trials: list[Trial], step: int, values: list[float]) -> list[Verdict]:
    return [judge.judge(t, step, value) for t, value in zip(trials, values, strict=True)]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_asha_stops_the_worst_at_a_rung_and_never_the_best(mode: str) -> None:
    sign = 1 if mode == "min" else -1
    judge, trials = _judge(make_spec(scheduler=ASHA, mode=mode), 6)
    early = _rung(judge, trials, 2, [sign * v for v in (9.0, 8.0, 7.0, 6.0, 5.0, 4.0)])
    assert early == ["go on"] * 6  # below the grace period
    found = _rung(judge, trials, 4, [sign * v for v in (1.0, 5.0, 2.0, 6.0, 0.5, 9.0)])
    assert [found[0], found[4]] == ["go on", "go on"]
    assert [found[i] for i in (1, 3, 5)] == ["stop"] * 3
    assert judge.judge(trials[4], 8, sign * 0.25) == "go on"
    assert judge.judge(trials[0], 8, sign * 0.75) == "stop"


def test_hyperband_has_brackets_that_begin_later() -> None:
    scheduler = {"type": "hyperband", "grace_period": 4, "reduction_factor": 2, "brackets": 3}
    judge, trials = _judge(make_spec(scheduler=scheduler), 24)
    values = [float(index) for index in range(24)]
    first = _rung(judge, trials, 4, values)
    second = [judge.judge(t, 8, values[t.index]) for t in trials if first[t.index] == "go on"]
    assert first[0] == second[0] == "go on"
    assert 0 < first.count("stop") < 23  # those of the first bracket alone
    assert "stop" in second


@pytest.mark.parametrize("scheduler", [ASHA, {"type": "median", "min_samples_required": 1}])
def test_a_trial_that_was_stopped_may_report_once_more(scheduler: Any) -> None:
    judge, trials = _judge(make_spec(scheduler=scheduler), 2)
    for step in (4, 8):
        judge.judge(trials[0], step, 1.0)
    assert judge.judge(trials[1], 4, 9.0) == "stop"
    for step in (5, 8):
        assert judge.judge(trials[1], step, 0.5) == "stop"


def test_the_median_rule_stops_what_is_worse_than_the_median() -> None:
    scheduler = {"type": "median", "grace_period": 4, "min_samples_required": 3}
    judge, trials = _judge(make_spec(scheduler=scheduler), 5)
    for step in (4, 8):
        for trial in trials[:4]:
            judge.judge(trial, step, 1.0 + trial.index)
    for trial in trials[:4]:
        judge.end(trial)
    assert judge.judge(trials[4], 2, 100.0) == "go on"
    assert judge.judge(trials[4], 8, 100.0) == "stop"
    better, (trial,) = _judge(make_spec(scheduler=scheduler), 1)
    assert better.judge(trial, 8, 100.0) == "go on"  # nothing to compare with


@pytest.mark.parametrize("scheduler", ["none", ASHA, PBT])
def test_what_is_no_number_is_stopped(scheduler: Any) -> None:
    judge, trials = _judge(make_spec(scheduler=scheduler), 2)
    assert judge.judge(trials[0], 1, math.nan) == "stop"


def test_without_a_scheduler_all_go_on() -> None:
    judge, trials = _judge(make_spec(scheduler="none"), 3)
    for step in range(1, 30):
        assert _rung(judge, trials, step, [1.0, 100.0 * step, math.inf]) == ["go on"] * 3


def test_reports_of_an_earlier_attempt_count() -> None:
    judge, trials = _judge(make_spec(scheduler=ASHA), 5)
    _rung(judge, trials[:4], 4, [1.0, 2.0, 3.0, 4.0])
    for trial in trials[:3]:
        judge.end(trial)
    judge.pause(trials[3])
    judge.add(trials[3])  # it goes on
    assert judge.judge(trials[4], 4, 3.5) == "stop"
    alone, _ = _judge(make_spec(scheduler=ASHA), 5)
    assert alone.judge(trials[4], 4, 3.5) == "go on"


def _population(seed: int, **fields: Any) -> tuple[Judge, list[Trial]]:
    """Eight trials that have reported step 4, the better the lower their number.

    The worst has come first: each is compared with those that came before.
    """
    judge, trials = _judge(make_spec(scheduler=PBT | fields), 8, seed)
    for trial in reversed(trials):
        judge.judge(trial, 4, float(trial.index))
    return judge, trials


@pytest.mark.parametrize("seed", range(8))
def test_pbt_has_the_worst_take_over_from_the_best(seed: int) -> None:
    judge, trials = _population(seed)
    for trial in trials[:2]:
        assert judge.judge(trial, 8, float(trial.index)) == "go on"
        assert judge.takeover(trial) is None
    for trial in trials[6:]:
        assert judge.judge(trial, 8, 50.0 + trial.index) == "pause"
        wanted = judge.takeover(trial)
        assert wanted
        assert wanted.donor in (0, 1)
        assert set(wanted.values) == {RATE, RANK}
        assert 1e-5 <= wanted.values[RATE] <= 1e-2
        assert wanted.values[RANK] in (4, 8)
        assert wanted.values != trials[wanted.donor].values
        judge.judge(trial, 9, 1.0)
        assert judge.takeover(trial) is None  # it was said once


def test_pbt_keeps_changed_values_in_their_domains() -> None:
    space = {RATE: {"uniform": [0.09, 0.1]}, RANK: {"randint": [4, 6]}}
    fields = {"resample_probability": 0.0, "perturbation_factors": (3.0, 0.1)}
    spec = make_spec(scheduler=PBT | fields, search_space=space)
    seen = set()
    for seed in range(12):
        judge = Judge(spec, seed)
        trials = [Trial(index, {RATE: 0.095, RANK: 5}) for index in range(4)]
        for trial in trials:
            judge.add(trial)
        for trial in trials:
            judge.judge(trial, 4, float(trial.index))
        wanted = judge.takeover(trials[3])
        assert wanted
        seen.add((wanted.values[RATE], wanted.values[RANK]))
    assert {rate for rate, _ in seen} == {0.09, 0.1}
    assert {rank for _, rank in seen} == {4, 5}
    assert trials[0].values == {RATE: 0.095, RANK: 5}


def test_pbt_gives_the_turn_to_trials_that_wait() -> None:
    judge, trials = _judge(make_spec(scheduler=PBT), 4)
    assert judge.judge(trials[0], 4, 1.0) == "go on"
    judge.pause(trials[1])
    assert judge.judge(trials[0], 7, 1.0) == "go on"  # not yet
    assert judge.judge(trials[0], 8, 1.0) == "pause"
    assert judge.takeover(trials[0]) is None
    judge.end(trials[1])
    assert judge.judge(trials[0], 12, 1.0) == "go on"


def test_pbt_is_the_same_for_a_seed() -> None:
    def values(seed: int) -> Any:
        judge, trials = _population(seed)
        judge.judge(trials[7], 8, 70.0)
        return judge.takeover(trials[7])

    assert values(3) == values(3)
    assert len({str(values(seed)) for seed in range(8)}) > 1
