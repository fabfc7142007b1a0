"""The controller: waits for room, tells lost nodes from other failures, and keeps the deadline."""

import json
from dataclasses import replace
from typing import Any

import pytest

from jobs.errors import DeadlinePassed, UserError
from jobs.state import FailureClass, RunState, StageState
from tests.unit.jobs.controller.bench import Bench, commits, raises
from workloads.context import StageContext, StageResult


def _events(bench: Bench, kind: str) -> list[dict[str, Any]]:
    lines = bench.record.layout.events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def test_what_is_waited_for_is_shown_and_recorded_once(bench: Bench) -> None:
    bench.machine.waits = ["2 CPUs: 4 of 4 in use by other"] * 5
    assert bench.run() is RunState.SUCCEEDED
    assert "[sft] waiting for 2 CPUs: 4 of 4 in use by other" in bench.output.getvalue()
    (waiting,) = _events(bench, "waiting")
    assert (waiting["stage"], waiting["reason"]) == ("sft", "2 CPUs: 4 of 4 in use by other")
    assert len(_events(bench, "placed")) == 1


def test_who_finds_room_at_once_is_told_nothing(bench: Bench) -> None:
    bench.run()
    assert (_events(bench, "waiting"), _events(bench, "placed")) == ([], [])


def test_a_lost_node_is_tried_again_more_often_than_other_failures(
    bench: Bench, slept: list[float]
) -> None:
    bench.machine.lost = ("10.0.0.2",)
    bench.work(sft=raises(*[ConnectionError("closed")] * 6))
    assert bench.run() is RunState.SUCCEEDED
    assert slept == [1, 2, 4, 8, 16, 32]
    retries = _events(bench, "retry")
    assert [event["reason"] for event in retries] == ["node_lost"] * 6
    messages = [event.get("message") for event in _events(bench, "stage")]
    assert "the cluster lost 10.0.0.2: closed" in messages


def test_a_user_s_mistake_is_one_also_where_a_node_is_lost(bench: Bench) -> None:
    bench.machine.lost = ("10.0.0.2",)
    bench.work(sft=raises(UserError("no rows")))
    assert bench.run() is RunState.FAILED
    assert bench.status("sft").reason is FailureClass.USER_ERROR


def test_a_node_without_the_runs_folder_is_named_beside_what_failed(
    bench: Bench, slept: list[float]
) -> None:
    bench.machine.blind = ("10.0.0.2",)
    bench.work(sft=raises(RuntimeError("UDF failed")))
    assert bench.run() is RunState.FAILED
    status = bench.status("sft")
    assert (status.reason, slept) == (FailureClass.USER_ERROR, [])
    message = status.message or ""
    assert "10.0.0.2 has no " in message
    assert "in which the run works: UDF failed" in message
    assert "XDG_CACHE_HOME" in message


@pytest.mark.parametrize("error", [UserError("no rows"), MemoryError(), ConnectionError("closed")])
def test_a_failure_that_is_known_is_not_laid_on_such_a_node(bench: Bench, error: Exception) -> None:
    bench.machine.blind = ("10.0.0.2",)
    bench.work(sft=raises(*[error] * 20))
    assert bench.run() is RunState.FAILED
    assert "10.0.0.2" not in (bench.status("sft").message or "")


@pytest.mark.parametrize("saves", [True, False])
def test_at_the_deadline_a_checkpoint_is_committed_and_the_run_fails(
    bench: Bench, saves: bool
) -> None:
    def train(context: StageContext) -> StageResult:
        if saves:
            context.attempt.worker_log(0).touch()
        while not context.layout.stop_request.exists() and saves:
            pass
        return StageResult(finished=False)

    bench.work(sft=train)
    bench.plan = replace(bench.plan, deadline_s=0.05 if saves else 0.0)
    assert bench.run() is RunState.FAILED
    assert isinstance(bench.controller.failure, DeadlinePassed)
    assert bench.states() == [StageState.FAILED, StageState.SKIPPED]
    status = bench.status("sft")
    assert status.reason is FailureClass.DEADLINE
    assert "longer than" in (status.message or "")
    bench.plan = replace(bench.plan, deadline_s=60)
    bench.work(sft=commits)
    assert bench.run() is RunState.SUCCEEDED
