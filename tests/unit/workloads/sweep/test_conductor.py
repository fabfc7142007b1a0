"""What runs next in a sweep, and what becomes of it, with a judge that is told what to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from jobs.errors import RaysmithError, UserError
from jobs.spec.sweep import SweepSpec
from tests.unit.workloads.sweep.bench import Sweep, make_spec
from workloads.sweep.conductor import Conductor
from workloads.sweep.takeover import read_takeover
from workloads.sweep.trials import Trial, TrialState
from workloads.sweep.turn import lost_turn, read_order

if TYPE_CHECKING:
    from workloads.sweep.judges import Judge, Verdict

PBT = {"type": "pbt", "perturbation_interval": 4}
RANK = "tuner.rank"


class Wanted(NamedTuple):
    """What a judge says of a takeover."""

    donor: int
    values: dict[str, Any]


@dataclass
class FakeJudge:
    """Says what it is told to say of the next report; "go on" of all others."""

    verdict: Verdict = "go on"
    wanted: Wanted | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.calls.append(("add", trial.index))

    def judge(self, trial: Trial, step: int, value: float) -> Verdict:
        self.calls.append(("judge", trial.index, step, value))
        verdict, self.verdict = self.verdict, "go on"
        return verdict

    def takeover(self, trial: Trial) -> Wanted | None:
        return self.wanted

    def pause(self, trial: Trial) -> None:
        self.calls.append(("pause", trial.index))

    def end(self, trial: Trial) -> None:
        self.calls.append(("end", trial.index))


@dataclass
class FakeProposals:
    """Proposes the trial's number as its rank."""

    count: int = 4
    told: dict[int, float | None] = field(default_factory=dict)

    def propose(self, index: int) -> dict[str, Any]:
        return {RANK: index + 1}

    def tell(self, trial: Trial, value: float | None) -> None:
        self.told[trial.index] = value


@dataclass
class Hall:
    """A conductor, and all that it conducts."""

    sweep: Sweep
    spec: SweepSpec
    judge: FakeJudge = field(default_factory=FakeJudge)
    proposals: FakeProposals = field(default_factory=FakeProposals)
    gpus: float = 0.0
    ended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conductor = Conductor(
            self.spec, self.sweep.layout, self.sweep.trials(self.spec.mode), self.proposals,
            cast("Judge", self.judge), self.gpus, lambda _, trial: self.ended.append(trial.index),
            self.sweep.clock,
        )  # fmt: skip

    def start(self) -> int:
        trial = self.conductor.next_turn()
        assert trial
        return trial.index

    def report(self, index: int, step: int, loss: float) -> None:
        self.conductor.reported(index, step, 32, {"eval_loss": loss})

    def over(self, index: int, state: str = "finished", **more: Any) -> None:
        ended = {"state": state, "reason": None, "seconds": 1.0, "recoveries": 0, **more}
        self.conductor.turn_over(index, ended)

    def run(self, loss: float) -> None:
        """A trial from its start to its end."""
        index = self.start()
        self.report(index, 32, loss)
        self.over(index)

    def fail(self, kind: str = "unknown", *, is_common: bool = False) -> None:
        more = {"class": kind, "remedy": "mend it", "is_common": is_common}
        self.over(self.start(), "failed", reason=f"{kind}: no", **more)

    def order(self, index: int) -> tuple[TrialState, str] | None:
        layout = self.sweep.layout.trial(index)
        return read_order(layout.order) if layout.stop_request.exists() else None

    def is_over(self) -> bool:
        return self.conductor.is_over

    def failure(self) -> RaysmithError | None:
        return self.conductor.failure

    def again(self) -> Hall:
        """Another attempt at the sweep, after the driver of this one was killed."""
        return Hall(self.sweep, self.spec, gpus=self.gpus)


@pytest.fixture
def hall(sweep: Sweep) -> Hall:
    return Hall(sweep, make_spec())


def test_trials_start_in_the_order_of_drawing_until_there_are_enough(hall: Hall) -> None:
    for index in range(4):
        assert not hall.is_over()
        assert hall.start() == index
    assert hall.conductor.next_turn() is None
    assert not hall.is_over()
    for index in range(4):
        hall.report(index, 32, float(index))
        hall.over(index)
    assert hall.is_over()
    assert hall.ended == [0, 1, 2, 3]
    assert hall.proposals.told == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_what_was_interrupted_comes_first_and_what_has_ended_never_again(hall: Hall) -> None:
    hall.run(1.0)
    for index, step in ((1, 8), (2, 4)):
        assert hall.start() == index
        hall.report(index, step, 2.0)
    again = hall.again()
    assert again.judge.calls[:3] == [("add", 0), ("judge", 0, 32, 1.0), ("end", 0)]
    assert again.judge.calls[-1] == ("pause", 2)
    assert [again.start() for _ in range(3)] == [2, 1, 3]
    assert again.conductor.trials.trials[2].values == {RANK: 3}
    assert again.conductor.next_turn() is None


def test_a_population_is_whole_before_any_of_it_goes_on(sweep: Sweep) -> None:
    hall = Hall(sweep, make_spec(scheduler=PBT))
    for index in range(4):
        assert hall.start() == index
        hall.judge.verdict = "pause"
        hall.report(index, 4, 1.0)
        assert hall.order(index) == (TrialState.PAUSED, "its turn is over")
        hall.over(index, "paused")
    assert hall.start() == 0
    assert hall.ended == []


def test_a_takeover_is_recorded_and_left_for_the_trials_next_turn(sweep: Sweep) -> None:
    hall = Hall(sweep, make_spec(scheduler=PBT))
    for index, loss in ((0, 1.0), (1, 9.0)):
        assert hall.start() == index
        hall.judge.verdict = "pause" if index else "go on"
        hall.judge.wanted = Wanted(0, {RANK: 7}) if index else None
        hall.report(index, 4, loss)
    wanted = read_takeover(sweep.layout.trial(1))
    assert wanted
    assert (wanted.donor, wanted.step) == (0, 4)
    trial = hall.conductor.trials.trials[1]
    assert trial.values == {RANK: 7}
    assert trial.changes == [{"from_trial": 0, "step": 4, "values": {RANK: 7}}]
    assert read_takeover(sweep.layout.trial(0)) is None


def test_what_the_judge_stops_gets_one_order(hall: Hall) -> None:
    for index, loss in ((0, 3.0), (1, float("nan"))):
        hall.start()
        hall.judge.verdict = "stop"
        hall.report(index, 4, loss)
    assert hall.order(0) == (TrialState.STOPPED, "none: others were better")
    assert hall.order(1) == (TrialState.STOPPED, "diverged")
    hall.judge.verdict = "stop"
    hall.report(0, 8, float("nan"))
    assert hall.order(0) == (TrialState.STOPPED, "none: others were better")


def test_a_trial_at_its_end_gets_no_order(hall: Hall) -> None:
    hall.start()
    hall.judge.verdict = "stop"
    hall.report(0, 32, 3.0)
    assert hall.order(0) is None


def test_nothing_starts_when_the_time_is_over(sweep: Sweep) -> None:
    hall = Hall(sweep, make_spec(budget={"time_s": 60}))
    assert [hall.start(), hall.start()] == [0, 1]
    sweep.clock.passed = 59
    hall.conductor.look()
    assert hall.order(0) is None
    sweep.clock.passed = 60
    hall.conductor.look()
    assert hall.order(0) == hall.order(1) == (TrialState.STOPPED, "the budget of 60 s is spent")
    assert hall.conductor.next_turn() is None
    sweep.layout.trial(0).stop_request.unlink()  # as a turn does that was not ready for it
    hall.conductor.look()
    assert hall.order(0)
    hall.over(0, "stopped")
    hall.over(1, "stopped")
    assert hall.is_over()


def test_time_of_earlier_attempts_counts(sweep: Sweep) -> None:
    spec = make_spec(budget={"time_s": 60})
    hall = Hall(sweep, spec)
    sweep.clock.passed = 40
    hall.run(1.0)
    hall = hall.again()
    assert hall.start() == 1
    sweep.clock.passed = 59
    assert hall.start() == 2
    sweep.clock.passed = 61
    assert hall.conductor.next_turn() is None


def test_gpu_hours_count_what_runs_and_what_ran(sweep: Sweep) -> None:
    spec = make_spec(budget={"gpu_hours": 2}, trial=make_spec().trial.model_dump(mode="json") | {
        "resources": {"gpus_per_worker": 1}})  # fmt: skip
    hall = Hall(sweep, spec, gpus=2.0)
    hall.start()
    sweep.clock.passed = 1800
    hall.over(0, seconds=1800.0)
    hall = hall.again()
    assert hall.conductor.gpu_seconds == 3600
    hall.start()
    sweep.clock.passed += 1799
    hall.conductor.look()
    assert hall.order(1) is None
    sweep.clock.passed += 1
    hall.conductor.look()
    assert hall.order(1) == (TrialState.STOPPED, "the budget of 2 GPU hours is spent")


def test_a_plateau_counts_trials_since_the_last_better_one(sweep: Sweep) -> None:
    hall = Hall(sweep, make_spec(plateau={"trials": 2, "min_delta": 0.1}), FakeJudge(),
                FakeProposals(10))  # fmt: skip
    for loss in (5.0, 4.0, 3.95, 3.0, 2.95):
        hall.run(loss)
        assert not hall.is_over()
    hall.run(2.92)
    assert hall.is_over()
    assert hall.conductor.ending == "2 trials in a row brought nothing better"
    assert hall.failure() is None


@pytest.mark.parametrize(("kind", "error"), [("user_error", UserError), ("unknown", RaysmithError)])
def test_more_failed_trials_than_may_end_the_sweep(
    sweep: Sweep, kind: str, error: type[RaysmithError]
) -> None:
    hall = Hall(sweep, make_spec(max_failed_trials=1))
    hall.fail(kind)
    assert hall.failure() is None
    hall.start()  # 1
    hall.fail(kind)
    failure = hall.failure()
    assert failure
    assert type(failure) is error
    assert failure.message == (
        "2 trials failed, more than max_failed_trials: 1 allows; the last: trial_0002 failed: "
        f"{kind}: no"
    )
    assert failure.remedy == "mend it"
    assert hall.order(1) == (TrialState.PAUSED, "too many trials failed")
    assert hall.proposals.told == {0: None, 2: None}


def test_a_failure_that_all_would_share_ends_the_sweep_at_once(hall: Hall) -> None:
    hall.fail("user_error", is_common=True)
    assert isinstance(hall.conductor.failure, UserError)
    assert hall.is_over()


def test_failed_trials_start_again_in_another_attempt(hall: Hall) -> None:
    hall.fail()
    hall.run(1.0)
    again = hall.again()
    assert [again.start(), again.start()] == [0, 2]
    assert again.conductor.failed_here == 0


def test_a_lost_turn_is_a_failed_trial(hall: Hall) -> None:
    hall.start()
    hall.report(0, 4, 1.0)
    hall.conductor.turn_over(0, lost_turn())
    trial = hall.conductor.trials.trials[0]
    assert (trial.state, trial.reason) == (
        TrialState.FAILED, "its process was lost again and again")  # fmt: skip
    assert hall.proposals.told == {0: None}


def test_a_request_to_stop_pauses_what_runs(hall: Hall) -> None:
    hall.start()
    hall.conductor.interrupt()
    assert hall.order(0) == (TrialState.PAUSED, "asked to stop")
    assert hall.conductor.next_turn() is None
    hall.report(0, 4, 1.0)
    hall.over(0, "paused")
    assert hall.is_over()
    assert hall.ended == []
    assert hall.again().start() == 0


def test_the_best_of_a_population_leaves_its_model_when_the_time_is_over(sweep: Sweep) -> None:
    spec = make_spec(scheduler=PBT, budget={"time_s": 60})
    hall = Hall(sweep, spec)
    for index, loss in ((0, 1.0), (1, 2.0)):
        hall.start()
        hall.judge.verdict = "pause"
        hall.report(index, 4, loss)
        hall.over(index, "paused")
    sweep.clock.passed = 60
    assert hall.start() == 0
    sweep.layout.trial(0).stop_request.unlink()  # as its turn does
    hall.conductor.look()
    assert hall.order(0) == (TrialState.STOPPED, "the budget of 60 s is spent")
    assert not hall.is_over()
    hall.over(0, "stopped")
    assert hall.is_over()
    assert hall.conductor.next_turn() is None
