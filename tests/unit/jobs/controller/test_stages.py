"""The controller: what it runs, tries again, leaves out, and how it is taken up."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import ClusterError, GateNotMet, UserError
from jobs.observed import Driver, read_status
from jobs.plan.resolve import StagePlan
from jobs.state import FailureClass, RunState, StageState
from storage.durable import write_atomic
from tests.unit.jobs.controller.bench import DONE, SPEC, Bench, commits, raises
from workloads import WORKLOADS, Workload
from workloads.context import StageContext, StageResult


def test_stages_run_in_order_and_hand_on_their_artifacts(bench: Bench) -> None:
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1"]
    assert bench.states() == [StageState.SUCCEEDED] * 2
    sft, merge = bench.contexts
    assert (sft.seed, sft.owner.key, dict(sft.inputs)) == (42, "key-1", {})
    assert merge.inputs == {"model": sft.artifact}
    assert bench.status("sft").artifact == str(sft.artifact)
    assert bench.controller.timings == {"sft.work": 1.0, "merge.work": 1.0}
    assert read_status(bench.record.layout).state is RunState.SUCCEEDED
    assert bench.output.getvalue().splitlines()[:2] == ["[sft] running", "[sft] succeeded"]


def test_what_has_succeeded_is_not_run_again(bench: Bench) -> None:
    bench.run()
    first = bench.record.status.run_id
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.status.run_id == first
    assert len(bench.started) == 2


def test_a_service_is_run_each_time_and_ends_when_it_is_asked_to(bench: Bench) -> None:
    bench.use(SPEC + "  serve: {kind: serve, model: m}\n")
    bench.keys["serve"] = "key-3"

    def serve(context: StageContext) -> StageResult:
        context.attempt.service_json.touch()
        signal.raise_signal(signal.SIGTERM)
        while not context.layout.stop_request.exists():
            os.sched_yield()
        return DONE

    bench.work(serve=serve)
    for _ in range(2):
        assert (bench.run(), bench.status("serve").artifact) == (RunState.SUCCEEDED, None)
    assert bench.started == ["sft 1", "merge 1", "serve 1", "serve 2"]
    assert "what is being answered will end first" in bench.output.getvalue()


def test_an_artifact_that_was_lost_is_made_again(bench: Bench) -> None:
    bench.run()
    (bench.contexts[1].artifact / "model.bin").write_text("torn")
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1", "merge 2"]


def test_another_run_takes_over_what_has_not_changed(bench: Bench) -> None:
    bench.run()
    artifact, first = bench.status("sft").artifact, bench.record.status
    bench.keys = {"sft": "key-1", "merge": "key-3"}
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1", "merge 1"]
    assert bench.states() == [StageState.CACHED, StageState.SUCCEEDED]
    assert bench.status("sft").artifact == artifact
    assert bench.contexts[2].inputs == {"model": Path(artifact or "")}
    made_of: Any = bench.contexts[2].meta(type="model")["made_of"]
    (model,) = made_of["inputs"]
    assert (model["run"], model["key"]) == (f"bot/{first.run_id}", "key-1")


def test_infrastructure_is_tried_again_with_growing_pauses(
    bench: Bench, slept: list[float]
) -> None:
    bench.work(sft=raises(*[ConnectionError("lost")] * 3))
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == [*(f"sft {n}" for n in (1, 2, 3, 4)), "merge 1"]
    assert slept == [1.0, 2.0, 4.0]
    status = bench.status("sft")
    assert (status.attempt, status.recoveries, status.reason) == (4, 3, None)


def test_the_fourth_failure_of_infrastructure_is_the_last(bench: Bench) -> None:
    errors = [ConnectionError(f"lost {n}") for n in range(4)]
    bench.work(sft=raises(*errors))
    assert bench.run() is RunState.FAILED
    assert bench.controller.failure is errors[3]
    assert bench.states() == [StageState.FAILED, StageState.SKIPPED]
    status = bench.status("sft")
    assert (status.reason, status.message) == (FailureClass.INFRASTRUCTURE, "lost 3")
    assert (status.attempt, status.recoveries) == (4, 3)


def test_classes_of_failure_are_counted_apart(bench: Bench) -> None:
    bench.work(sft=raises(MemoryError(), ConnectionError(), ConnectionError(), MemoryError()))
    assert bench.run() is RunState.FAILED
    assert bench.status("sft").reason is FailureClass.HOST_OUT_OF_MEMORY
    assert bench.status("sft").recoveries == 3


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("no rows for secret-word"), FailureClass.USER_ERROR, "no rows for ***"),
        (GateNotMet("loss is 3"), FailureClass.GATE_NOT_MET, "loss is 3"),
        (ValueError(), FailureClass.UNKNOWN, "ValueError"),
        (SystemExit(3), FailureClass.UNKNOWN, "3"),
    ],
)
def test_what_will_not_mend_itself_is_not_tried_again(
    bench: Bench, slept: list[float], error: BaseException, kind: FailureClass, message: str
) -> None:
    bench.work(sft=raises(error))
    assert bench.run() is RunState.FAILED
    assert (bench.started, slept) == (["sft 1"], [])
    assert bench.states() == [StageState.FAILED, StageState.SKIPPED]
    assert (bench.status("sft").reason, bench.status("sft").message) == (kind, message)
    assert "Traceback" in bench.contexts[0].attempt.driver_log.read_text()


def test_what_is_there_is_held_to_what_the_plan_demands_now(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    held: list[Path] = []

    def hold(stage: StagePlan, artifact: Path) -> None:
        held.append(artifact)
        if len(held) == 1:
            raise GateNotMet("accuracy is 0.5, and must be >= 0.6")

    bench.code.__dict__["hold"] = hold
    name = bench.code.__name__
    monkeypatch.setitem(WORKLOADS, "sft", Workload("", f"{name}:sft", hold=f"{name}:hold"))
    assert bench.run() is RunState.FAILED
    assert bench.states() == [StageState.FAILED, StageState.SUCCEEDED]
    assert bench.status("sft").reason is FailureClass.GATE_NOT_MET
    assert bench.run() is RunState.SUCCEEDED
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1"]
    assert held == [bench.record.layout.artifact("sft")] * 3


def test_a_failed_run_goes_on_where_it_failed(bench: Bench) -> None:
    bench.work(merge=raises(UserError("disk is full")))
    assert bench.run() is RunState.FAILED
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 1", "merge 1", "merge 2"]
    assert bench.status("merge").message is None


def test_a_cluster_that_does_not_start_is_tried_again(bench: Bench) -> None:
    bench.machine.refusals = 2
    assert bench.run() is RunState.SUCCEEDED
    assert bench.started == ["sft 3", "merge 1"]
    bench.machine.refusals = 4
    bench.keys = {"sft": "key-4", "merge": "key-5"}
    assert bench.run() is RunState.FAILED
    assert isinstance(bench.controller.failure, ClusterError)


def test_a_killed_driver_s_run_goes_on_with_the_next_attempt(bench: Bench) -> None:
    record = bench.open()
    record.move("sft", StageState.RUNNING, attempt=1, key="key-1")
    here = Driver.here()
    killed = record.status.model_copy(
        # This process's number, had by another one before.
        update={"driver": here.model_copy(update={"start_time": "0"})}
    )
    write_atomic(record.layout.status, killed.model_dump_json().encode())
    stop_request = record.layout.stage("sft").stop_request
    stop_request.parent.mkdir(parents=True)
    stop_request.touch()
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.status.run_id == record.status.run_id
    assert bench.record.status.driver == here
    assert bench.started == ["sft 2", "merge 1"]
    assert not stop_request.exists()


def test_what_stages_tell_is_recorded_and_shown(bench: Bench) -> None:
    def tell(context: StageContext) -> StageResult:
        context.note("12 rows")
        context.event("resumed", step=3, key="secret-word")
        return commits(context)

    bench.work(sft=tell)
    bench.run()
    assert "[sft] 12 rows" in bench.output.getvalue()
    assert "12 rows" in bench.contexts[0].attempt.driver_log.read_text()
    assert '"stage": "sft", "step": 3, "key": "***"' in bench.record.layout.events.read_text()
