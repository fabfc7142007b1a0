"""A turn of a trial, with a training function of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import workloads.sweep.turn as turn_module
from jobs.errors import ClusterError, UserError
from jobs.plan.resolve import StagePlan
from storage.commit import begin, commit
from storage.manifest import Owner
from tests.unit.workloads.sweep.bench import Sweep, make_spec
from workloads import failures
from workloads.context import StageContext, StageResult
from workloads.sweep.takeover import Takeover, write_takeover
from workloads.sweep.trials import TrialState
from workloads.sweep.turn import SweepTask, TrialCluster, Turn, _Tail, read_order
from workloads.train.checkpoint import STATE_FILE
from workloads.train.crew import Crew

Train = Callable[[StageContext], StageResult]
Begin = Callable[..., Turn]
VALUES = {"training.learning_rate": 1e-4, "tuner.rank": 8}


def _log(context: StageContext, *records: dict[str, Any]) -> None:
    with context.attempt.logging_jsonl.open("a") as file:
        for record in records:
            file.write(json.dumps({"max_steps": 32, "epoch": 0.5, **record}) + "\n")


def _evaluated(step: int, loss: float) -> dict[str, Any]:
    return {"global_step": step, "eval_loss": loss}


@pytest.fixture
def begin_turn(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Begins a turn that trains by a function; `reported` and `metric` by name."""
    monkeypatch.setattr(failures, "duration_s", lambda text: 0.0)
    monkeypatch.setattr(turn_module, "_POLL_S", 0.001)

    def begin_turn(train: Train, reported: int = 0, metric: str = "eval_loss") -> Turn:
        monkeypatch.setattr(turn_module, "load_function", lambda place: train)
        spec = make_spec(metric=metric)
        task = SweepTask(
            StagePlan("sweep", spec, (), {}, spec.produces), 42, (str(sweep.folder),),
            Owner("r1", "sweep", "key", 1), sweep.layout, {}, TrialCluster(1, is_local=True),
        )  # fmt: skip
        return Turn(task, 0, VALUES, reported, Crew(sweep.folder / "crew"))

    return begin_turn


def _all(turn: Turn) -> tuple[list[tuple[int, float]], dict[str, Any]]:
    """What a turn reports, and how it ends."""
    reports = []
    while "state" not in (said := turn.wait()):
        reports.append((said["global_step"], said["eval_loss"]))
    return reports, said


def test_a_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    tail = _Tail(path)
    assert list(tail.read()) == []
    for text, found in (
        ('{"a": 1}\n{"a"', [{"a": 1}]), (": 2", []), ("}\n", [{"a": 2}]),
        ('{"é": 3}\n{"a": 4}\n', [{"é": 3}, {"a": 4}]), ("", []),
    ):  # fmt: skip
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        assert list(tail.read()) == found


def test_an_order_is_read_with_its_reason(tmp_path: Path) -> None:
    assert read_order(tmp_path / "order") == (TrialState.PAUSED, "asked to stop")
    (tmp_path / "order").write_text("stopped\nasha: others\nwere better")
    assert read_order(tmp_path / "order") == (TrialState.STOPPED, "asha: others\nwere better")


def test_a_turn_tells_what_is_recorded_with_the_metric(begin_turn: Begin) -> None:
    seen: list[StageContext] = []

    def train(context: StageContext) -> StageResult:
        seen.append(context)
        _log(context, {"global_step": 2, "loss": 3.0}, _evaluated(4, 2.5))
        _log(context, _evaluated(8, 2.0) | {"loss": 1.5, "elapsed_time": "1s"})
        return StageResult(finished=True)

    turn = begin_turn(train)
    assert turn.wait() == {
        "global_step": 4, "max_steps": 32, "metrics": {"eval_loss": 2.5}, "eval_loss": 2.5,
    }  # fmt: skip
    assert turn.wait()["metrics"] == {"eval_loss": 2.0, "loss": 1.5}
    ended = turn.wait()
    assert (ended["state"], ended["reason"], ended["recoveries"]) == ("finished", None, 0)
    assert ended["done"]
    assert ended["seconds"] >= 0
    (context,) = seen
    spec = cast(Any, context.stage.spec)
    assert (spec.training.learning_rate, spec.tuner.rank) == (1e-4, 8)
    assert context.stage.name == context.owner.stage == "sweep-trial_0000"
    assert context.owner.attempt == 1
    assert context.shared
    assert "Traceback" not in context.attempt.driver_log.read_text()


def _save_state(sweep: Sweep, trial: int, step: int, *records: dict[str, Any]) -> None:
    owner = Owner("r1", f"sweep-trial_{trial:04d}", "key", 1)
    folder = sweep.layout.trial(trial).checkpoint(step)
    begin(folder, owner)
    log_history = [{"max_steps": 32, **record} for record in records]
    (folder / STATE_FILE).write_text(json.dumps({"log_history": log_history}))
    commit(folder, owner, {"step": step})


def test_what_only_the_checkpoint_knows_is_reported(sweep: Sweep, begin_turn: Begin) -> None:
    """The driver was killed before it heard of step 8; it knows of step 4."""
    _save_state(sweep, 0, 8, _evaluated(4, 4.0), _evaluated(8, 3.0))

    def train(context: StageContext) -> StageResult:
        _log(context, _evaluated(12, 2.0))
        return StageResult(finished=True)

    reports, _ = _all(begin_turn(train, reported=4))
    assert reports == [(8, 3.0), (12, 2.0)]


def test_what_the_donor_had_reported_is_not_the_trials(sweep: Sweep, begin_turn: Begin) -> None:
    _save_state(sweep, 1, 8, _evaluated(4, 1.0), _evaluated(8, 0.5))
    _save_state(sweep, 0, 12, _evaluated(12, 9.0))
    write_takeover(sweep.layout.trial(0), Takeover(1, 8))

    def train(context: StageContext) -> StageResult:
        _log(context, _evaluated(12, 0.25))
        return StageResult(finished=True)

    reports, _ = _all(begin_turn(train, reported=12))
    assert reports == [(12, 0.25)]


@pytest.mark.parametrize("state", ["stopped", "paused"])
def test_a_trial_that_was_ordered_to_end_says_so(
    sweep: Sweep, begin_turn: Begin, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[int] = []
    monkeypatch.setattr(turn_module, "start_model", lambda context, spec: None)
    monkeypatch.setattr(turn_module, "publish", lambda context, step, model: published.append(step))
    layout = sweep.layout.trial(0)
    layout.folder.mkdir(parents=True)
    layout.stop_request.touch()  # of the turn before

    def train(context: StageContext) -> StageResult:
        assert not context.layout.stop_request.exists()
        layout.order.write_text(f"{state}\nasha: others were better")
        _save_state(sweep, 0, 8)
        return StageResult(finished=False)

    _, ended = _all(begin_turn(train))
    assert (ended["state"], ended["reason"]) == (state, "asha: others were better")
    assert published == ([8] if state == "stopped" else [])


def test_a_metric_that_is_never_recorded_is_an_error_with_the_nearest_name(
    sweep: Sweep, begin_turn: Begin
) -> None:
    def train(context: StageContext) -> StageResult:
        _log(context, {"global_step": 1, "loss": 3.0, "eval_runtime": 0.1})
        return StageResult(finished=True)  # before anybody has read that

    ended = begin_turn(train, metric="eval_runtme").wait()
    assert ended["state"] == "failed"
    assert ended["reason"] == "user_error: what the trials record has no metric 'eval_runtme'"
    assert (ended["class"], ended["is_common"]) == ("user_error", True)
    assert "'eval_runtime'" in ended["remedy"]
    assert sweep.layout.trial(0).stop_request.exists()


@pytest.mark.parametrize(("metric", "reported"), [("eval_loss", 0), ("eval_runtime", 4)])
def test_a_metric_that_may_still_come_is_waited_for(
    begin_turn: Begin, metric: str, reported: int
) -> None:
    """One that such a trial logs later on, and one that it has logged before."""

    def train(context: StageContext) -> StageResult:
        _log(context, {"global_step": 5, "loss": 3.0})
        return StageResult(finished=True)

    assert begin_turn(train, reported, metric).wait()["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (UserError("no such row", "mend it"), "user_error: no such row", "mend it"),
        (ValueError("odd"), "unknown: odd", None),
        (ValueError(), "unknown: ValueError", None),
        (SystemExit(3), "unknown: 3", None),
    ],
)
def test_a_failure_has_its_class_and_remedy(
    sweep: Sweep, begin_turn: Begin, error: BaseException, reason: str, remedy: str | None
) -> None:
    def train(context: StageContext) -> StageResult:
        raise error

    ended = begin_turn(train).wait()
    assert (ended["state"], ended["reason"], ended["remedy"]) == ("failed", reason, remedy)
    assert ended["class"] == reason.partition(":")[0]
    assert (ended["is_common"], ended["recoveries"]) == (False, 0)


def test_what_may_pass_is_tried_again_from_the_checkpoint(sweep: Sweep, begin_turn: Begin) -> None:
    def train(context: StageContext) -> StageResult:
        if context.owner.attempt < 3:
            _log(context, _evaluated(4 * context.owner.attempt, 1.0))
            raise ClusterError("lost a worker", "wait")
        _log(context, _evaluated(8, 9.0), _evaluated(12, 0.5))
        return StageResult(finished=True)

    reports, ended = _all(begin_turn(train))
    assert (ended["state"], ended["recoveries"]) == ("finished", 2)
    assert reports[-1] == (12, 0.5)
    assert [step for step, _ in reports] == sorted({step for step, _ in reports})


def test_what_does_not_pass_fails_in_the_end(begin_turn: Begin) -> None:
    def train(context: StageContext) -> StageResult:
        raise ClusterError("lost a worker", "wait")

    ended = begin_turn(train).wait()
    assert (ended["state"], ended["class"], ended["recoveries"]) == ("failed", "infrastructure", 3)
    assert ended["reason"] == "infrastructure: lost a worker"
