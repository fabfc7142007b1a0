"""The record of a sweep's trials: what is read back, which trial is best, and the table."""

from __future__ import annotations

import csv
import math

import pytest

from tests.unit.workloads.sweep.bench import Sweep
from workloads.sweep.trials import Trial, Trials, TrialState

RATE = "training.learning_rate"


def _done(trials: Trials, index: int, loss: float, state: str = "finished") -> Trial:
    trial = trials.start(index, {RATE: 0.1})
    trials.report(trial, 4, 8, {"eval_loss": loss})
    trials.end(trial, TrialState(state), 1.0)
    return trial


def test_what_was_recorded_is_read_back(sweep: Sweep) -> None:
    trials = sweep.trials()
    donor = _done(trials, 0, 2.0)
    trial = trials.start(1, {RATE: 0.2, "tuner.target_modules": ["q_proj"]})
    trials.report(trial, 4, 8, {"eval_loss": 3.0, "loss": 3.5})
    trials.change(trial, donor, 4, {RATE: 0.3})
    trials.end(trial, TrialState.PAUSED, 2.5, recoveries=1, reason="its turn is over")
    trials.close()
    found = sweep.trials().trials
    assert [vars(found[i]) for i in (0, 1)] == [vars(donor), vars(trial)]
    assert found[1].changes == [{"from_trial": 0, "step": 4, "values": {RATE: 0.3}}]


@pytest.mark.parametrize("torn", ['{"event": "ended", "trial": 0, "sta', '{"event": "opened"}'])
def test_a_line_that_was_cut_off_is_as_if_never_written(sweep: Sweep, torn: str) -> None:
    _done(sweep.trials(), 0, 2.0)
    with sweep.layout.trials_jsonl.open("a") as file:
        file.write(torn)
    for _ in range(2):  # what is added after it is read as well
        trials = sweep.trials()
        assert trials.trials[0].state is TrialState.FINISHED
        trials.close()


def test_a_record_of_nothing_but_a_torn_line_is_empty(sweep: Sweep) -> None:
    sweep.trials().close()
    sweep.layout.trials_jsonl.write_text('{"eve')
    assert sweep.trials().trials == {}


def test_a_trial_that_goes_back_reports_anew(sweep: Sweep) -> None:
    trials = sweep.trials()
    trial = trials.start(0, {RATE: 0.1})
    for step in (4, 8, 12):
        trials.report(trial, step, 16, {"eval_loss": float(step)})
    trials = sweep.trials()  # it was killed, and its last checkpoint is of step 4
    trial = trials.start(0, {RATE: 0.1})
    trials.report(trial, 8, 16, {"eval_loss": 7.5})
    assert trial.reports == {4: {"eval_loss": 4.0}, 8: {"eval_loss": 7.5}}
    assert sweep.trials().trials[0].reports == trial.reports


def test_seconds_add_up_over_attempts_without_the_time_between(sweep: Sweep) -> None:
    for _ in range(2):
        trials = sweep.trials()
        trial = trials.start(0, {RATE: 0.1})
        sweep.clock.passed += 10
        trials.end(trial, TrialState.PAUSED, 9.0)
        trials.close()
        sweep.clock.passed += 1000
    trials = sweep.trials()
    assert trials.seconds_before == 20
    assert trials.trials[0].seconds == 18


def test_a_failed_trial_starts_again_from_its_beginning(sweep: Sweep) -> None:
    trials = sweep.trials()
    _done(trials, 0, 2.0, "failed")
    assert trials.trials[0].state.has_ended
    for _ in range(2):
        trial = sweep.trials().trials[0]
        assert (trial.state, trial.step, trial.seconds) == (TrialState.PAUSED, 0, 1.0)
    trials = sweep.trials()
    trials.end(trials.start(0, {RATE: 0.1}), TrialState.FINISHED, 1.0)
    assert sweep.trials().trials[0].state is TrialState.FINISHED


@pytest.mark.parametrize(("mode", "best"), [("min", 1), ("max", 3)])
def test_the_best_has_the_best_last_value(sweep: Sweep, mode: str, best: int) -> None:
    trials = sweep.trials(mode)
    for index, loss in enumerate((2.0, 1.0, 1.0, 3.0, 3.0)):
        _done(trials, index, loss)
    worse = trials.start(5, {RATE: 0.1})
    for step, loss in ((4, 0.5 if mode == "min" else 9.0), (8, 2.0)):
        trials.report(worse, step, 8, {"eval_loss": loss})
    assert trials.best is trials.trials[best]  # the first of two alike


def test_what_has_no_value_is_not_the_best(sweep: Sweep) -> None:
    trials = sweep.trials()
    for index, loss in enumerate((math.nan, -math.inf)):
        _done(trials, index, loss)
    _done(trials, 2, 0.1, "failed")
    trials.start(3, {RATE: 0.1})
    assert trials.best_of(trials.trials.values()) is None
    assert [trials.trials[i].value("eval_loss") for i in range(4)] == [None] * 4
    assert _done(trials, 4, 5.0) is trials.best
    assert math.isnan(sweep.trials().trials[0].reports[4]["eval_loss"])


def test_better_is_by_more_than_a_margin(sweep: Sweep) -> None:
    low, high = sweep.trials("min"), sweep.trials("max")
    assert low.is_better(1.0, 1.5)
    assert high.is_better(1.5, 1.0)
    assert not low.is_better(1.0, 1.5, by=0.5)
    assert not high.is_better(1.0, 1.0)


def test_the_table_has_a_row_to_each_trial(sweep: Sweep) -> None:
    trials = sweep.trials()
    second = trials.start(1, {"dataset.system": 'Be "kind", and\nshort', "x": ["q", "v"]})
    first = trials.start(0, {"dataset.system": "", "x": None})
    trials.report(second, 4, 8, {"eval_loss": 1.5, "loss": 2.0})
    trials.report(second, 8, 8, {"eval_loss": 1.25, "loss": 1.75, "grad_norm": 0.5})
    trials.end(second, TrialState.FINISHED, 1.26)
    trials.end(first, TrialState.FAILED, 2.0, reason="user_error: no, not this")
    trials.write_table(sweep.layout.trials_csv)
    with sweep.layout.trials_csv.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["trial", "state", "dataset.system", "x", "eval_loss", "step", "max_steps", "seconds",
         "recoveries", "reason", "grad_norm", "loss"],
        ["0", "failed", "", "", "", "0", "", "2.0", "0", "user_error: no, not this", "", ""],
        ["1", "finished", 'Be "kind", and\nshort', '["q", "v"]', "1.25", "8", "8", "1.3", "0", "",
         "0.5", "1.75"],
    ]  # fmt: skip
