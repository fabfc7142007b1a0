"""Stages that are run anew although there is an artifact of theirs, and runs of one's own."""

from __future__ import annotations

import pytest

from jobs.controller import at_work
from jobs.errors import UserError
from jobs.observed import Driver
from jobs.plan.forced import forced_stages
from jobs.runs import Next, actions
from jobs.state import RunState, StageState
from tests.unit.jobs.controller.bench import Bench, raises


def test_forcing_a_stage_forces_what_depends_on_it(bench: Bench) -> None:
    assert forced_stages(bench.plan, ["merge"], no_cache=False) == ("merge",)
    assert forced_stages(bench.plan, ["sft"], no_cache=False) == ("sft", "merge")
    assert forced_stages(bench.plan, [], no_cache=True) == ("sft", "merge")
    assert forced_stages(bench.plan, [], no_cache=False) == ()
    with pytest.raises(UserError, match="no stage 'sfd'"):
        forced_stages(bench.plan, ["sfd"], no_cache=False)


def test_a_forced_stage_runs_anew_in_a_run_of_its_own(bench: Bench) -> None:
    bench.run()
    first = bench.record.layout
    bench.forced = ("merge",)
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.layout != first
    assert bench.states() == [StageState.CACHED, StageState.SUCCEEDED]
    assert bench.started == ["sft 1", "merge 1", "merge 1"]


def test_a_forced_run_that_failed_is_gone_on_with_and_stays_forced(bench: Bench) -> None:
    bench.run()
    bench.forced = ("merge",)
    bench.work(merge=raises(UserError("broken", "mend it")))
    assert bench.run() is RunState.FAILED
    forced = bench.record.layout
    bench.forced = ()
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.layout == forced
    assert bench.states() == [StageState.CACHED, StageState.SUCCEEDED]
    assert bench.started[-1] == "merge 2"


def test_a_new_run_takes_what_there_is(bench: Bench) -> None:
    bench.run()
    first, bench.new = bench.record.layout, True
    bench.run()
    assert bench.record.layout != first
    assert bench.states() == [StageState.CACHED, StageState.CACHED]


def test_plan_says_what_is_forced(bench: Bench) -> None:
    bench.run()
    digest = bench.record.status.digest
    said = actions(bench.layout, "bot", digest, bench.keys, ("merge",))
    run = f"bot/{bench.record.layout.folder.name}"
    assert said == {"sft": Next("cached", run), "merge": Next("run")}


def test_plan_says_that_a_forced_stage_is_gone_on_with_in_the_run_it_was_forced_in(
    bench: Bench,
) -> None:
    bench.run()
    bench.forced = ("merge",)
    bench.work(merge=raises(UserError("broken", "mend it")))
    bench.run()
    digest, run = bench.record.status.digest, f"bot/{bench.record.layout.folder.name}"
    said = actions(bench.layout, "bot", digest, bench.keys, ("merge",))
    assert said["merge"] == Next("resume", run)


def test_a_run_that_another_process_is_at_is_found(bench: Bench) -> None:
    record = bench.open()
    assert at_work(bench._job(), bench.layout) is None
    elsewhere = record.status.model_copy(update={"driver": Driver(host="far", pid=1)})
    record.layout.status.write_text(elsewhere.model_dump_json())
    assert at_work(bench._job(), bench.layout) == record.layout
    bench.new = True
    assert at_work(bench._job(), bench.layout) is None


def test_a_named_run_is_gone_on_with_though_a_newer_one_is_alike(bench: Bench) -> None:
    bench.work(merge=raises(UserError("broken", "mend it")))
    assert bench.run() is RunState.FAILED
    first = bench.record.layout
    bench.new = True
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.layout != first
    bench.new, bench.run_id = False, first.folder.name
    assert bench.run() is RunState.SUCCEEDED
    assert bench.record.layout == first


def test_a_named_run_whose_inputs_have_changed_is_refused(bench: Bench) -> None:
    bench.run()
    bench.run_id = bench.record.layout.folder.name
    bench.keys["merge"] = "another"
    with pytest.raises(UserError, match="what stage merge works on has changed"):
        bench.open()
