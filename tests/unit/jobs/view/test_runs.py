"""What `raysmith list` and `raysmith events` print."""

import json

from click.testing import CliRunner

from jobs.cli import cli
from jobs.record import Driver, Record, StageStatus
from jobs.state import FailureClass, RunState, StageState
from jobs.view.events import print_events
from jobs.view.runs import STATES, list_json, list_text, listed
from storage.layout import Layout
from tests.unit.jobs.clock import Clock


def make(layout: Layout, clock: Clock, run_id: str, name: str = "bot") -> Record:
    return Record.create(
        layout.run(name, run_id), run_id=run_id, name=name, plan_json="{}", spec_text="", lock={},
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
        digest="d", now=clock,
    )  # fmt: skip


def failed(layout: Layout, clock: Clock) -> Record:
    record = make(layout, clock, "run-1")
    record.move("sft", StageState.RUNNING, attempt=1)
    clock.advance(65)
    record.move("sft", StageState.FAILED, reason=FailureClass.STALLED, message="no step\nsince")
    record.finish(RunState.FAILED)
    return record


def test_a_run_is_one_line(layout: Layout, clock: Clock) -> None:
    failed(layout, clock)
    text = list_text(listed(layout, now=clock), now=clock)
    head, line = text.splitlines()
    assert head.split() == ["run", "state", "started", "took", "stages", "reason"]
    assert line.split() == [
        "bot/run-1", "failed", "2026-11-22", "10:32:00", "UTC", "1m05s", "0/2", "sft:", "stalled:",
        "no", "step", "since",
    ]  # fmt: skip


def test_runs_are_chosen_by_name_state_and_number(layout: Layout, clock: Clock) -> None:
    failed(layout, clock)
    for number in range(2, 30):
        clock.advance(1)
        make(layout, clock, f"run-{number}", name="bot" if number % 2 else "other")
    ids = [run.run_id for run in listed(layout, now=clock)]
    assert ids == [f"run-{number}" for number in range(29, 9, -1)]
    assert len(listed(layout, limit=None, now=clock)) == 29
    assert {run.name for run in listed(layout, "other", now=clock)} == {"other"}
    assert [run.run_id for run in listed(layout, state="failed", now=clock)] == ["run-1"]
    assert json.loads(list_json(listed(layout, limit=1), now=clock))[0]["run_id"] == "run-29"


def test_a_run_whose_driver_is_gone_is_interrupted(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock, "run-1")
    make(layout, clock, "run-2")
    elsewhere = record.status.model_copy(update={"driver": Driver(host="far", pid=1)})
    record.layout.status.write_text(elsewhere.model_dump_json())
    clock.advance(61)
    chosen = {state: [r.run_id for r in listed(layout, state=state, now=clock)] for state in STATES}
    assert (chosen["running"], chosen["interrupted"]) == (["run-2"], ["run-1"])


def test_events_say_from_which_state_to_which(layout: Layout, clock: Clock) -> None:
    lines: list[str] = []
    print_events(failed(layout, clock).layout, write=lines.append)
    assert lines == [
        "2026-11-22 10:32:00  -  run created  run_id=run-1",
        "2026-11-22 10:32:00  sft  pending -> running  attempt=1",
        "2026-11-22 10:33:05  sft  running -> failed  attempt=1  stalled: no step\nsince",
        "2026-11-22 10:33:05  -  run finished -> failed",
    ]


def test_events_are_followed_to_the_end_of_the_run(layout: Layout, clock: Clock) -> None:
    record = make(layout, clock, "run-1")
    lines: list[str] = []
    ends = iter([lambda: record.finish(RunState.SUCCEEDED)])
    write = lines.append
    print_events(record.layout, follow=True, write=write, sleep=lambda _: next(ends)())
    assert [line.split("  ")[2] for line in lines] == ["run created", "run finished -> succeeded"]


def test_what_is_no_event_is_shown_as_it_stands(layout: Layout, clock: Clock) -> None:
    record = failed(layout, clock)
    with record.layout.events.open("a") as file:
        file.write('{"time": "2026')
    lines: list[str] = []
    print_events(record.layout, write=lines.append)
    assert lines[-1] == '{"time": "2026'
    print_events(record.layout, as_json=True, write=lines.append)
    assert json.loads(lines[-2])["event"] == "run_finished"


def test_the_commands_print_them(layout: Layout, clock: Clock) -> None:
    failed(layout, clock)

    def told(*words: str) -> str:
        return CliRunner().invoke(cli, [*words, "--storage", str(layout.root)]).output

    assert "bot/run-1  failed" in told("list")
    assert told("list", "--state", "stopped") == "no runs\n"
    assert "running -> failed" in told("events", "bot")
