"""The views: which one is opened, what it shows, and how much."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from jobs.observed import Progress, StageStatus
from jobs.state import FailureClass, StageState
from jobs.view.terminal import LiveView, PlainView, open_view

SFT = StageStatus(name="sft", kind="sft")
MERGE = StageStatus(name="merge", kind="merge")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Seconds:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("stream", "environ", "kind"),
    [
        (Terminal(), {"TERM": "xterm"}, LiveView),
        (Terminal(), {"TERM": "dumb"}, PlainView),
        (Terminal(), {"NO_COLOR": "1"}, PlainView),
        (io.StringIO(), {"TERM": "xterm"}, PlainView),
    ],
)
def test_only_a_terminal_that_can_gets_the_live_view(
    stream: io.StringIO, environ: dict[str, str], kind: type
) -> None:
    assert type(open_view([SFT], stream, environ)) is kind


def test_plain_lines_say_what_happened() -> None:
    stream = io.StringIO()
    with PlainView(stream, Seconds()) as view:
        view.stage_changed(SFT.model_copy(update={"state": StageState.RUNNING, "attempt": 2}))
        view.progress(
            "sft",
            Progress(step=12, max_steps=100, loss=1.23454, tokens_per_second=250.6, remaining_s=61),
        )
        view.stage_changed(
            SFT.model_copy(
                update={
                    "state": StageState.FAILED,
                    "reason": FailureClass.USER_ERROR,
                    "message": "no rows\n  fix: add some",
                }
            )
        )
        view.stage_changed(MERGE.model_copy(update={"state": StageState.CACHED, "artifact": "/a"}))
        view.note("[not markup]")
    assert stream.getvalue().splitlines() == [
        "[sft] running (attempt 2)",
        "[sft] step 12/100  loss 1.2345  251 tokens/s  ETA 1m01s",
        "[sft] failed: user_error: no rows",
        "[merge] cached: /a",
        "[not markup]",
    ]


def test_plain_progress_comes_every_tenth_of_the_steps_or_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Seconds()
    view = PlainView(stream, clock)
    view.progress("sft", Progress(phase="loading the model"))
    for step in range(1, 101):
        view.progress("sft", Progress(step=step, max_steps=100))
        view.progress("sft", Progress(step=step, max_steps=100))
    quick = [line.split()[2] for line in stream.getvalue().splitlines()[1:]]
    assert quick == ["1/100", *(f"{step}/100" for step in range(10, 101, 10))]

    stream.truncate(stream.seek(0))
    for step in range(1000):
        clock.now += 0.5
        view.progress("other", Progress(step=step))
    assert len(stream.getvalue().splitlines()) == 50


def test_the_live_tree_shows_states_and_the_running_stage_s_progress() -> None:
    now = datetime(2026, 11, 22, 10, 1, 5, tzinfo=UTC)
    view = LiveView([SFT, MERGE], Terminal(), now=lambda: now)
    running = {"state": StageState.RUNNING, "attempt": 1, "started_at": "2026-11-22T10:00:00.000Z"}
    view.stage_changed(SFT.model_copy(update=running))
    view.progress("sft", Progress(phase="[b]training", step=5, max_steps=10, loss=1.5))
    text = _drawn(view)
    assert "sft  running  1m05s" in text
    assert "[b]training  step 5/10  loss 1.5000" in text
    assert "━" in text
    assert "merge  pending" in text

    view.stage_changed(SFT.model_copy(update={**running, "attempt": 2}))
    assert "step 5/10" not in _drawn(view)


def test_the_live_view_leaves_its_last_state_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with LiveView([SFT], stream) as view:
        view.note("[b]careful")
        view.stage_changed(SFT.model_copy(update={"state": StageState.SUCCEEDED}))
    assert "[b]careful" in stream.getvalue()
    assert "succeeded" in stream.getvalue().rpartition("careful")[2]


def _drawn(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with console.capture() as capture:
        console.print(view.render())
    return capture.get()


def test_a_stage_that_runs_shows_its_table_under_the_bar() -> None:
    rows = (("trial", "eval_loss"), ("0", "1.25"), ("1", "['q_proj'] [bold]"))
    stream = io.StringIO()
    view = LiveView([SFT, MERGE], stream)
    view.stage_changed(SFT.model_copy(update={"state": StageState.RUNNING, "attempt": 1}))
    view.progress("sft", Progress(step=1, max_steps=4, unit="trials", table=rows))
    console = Console(file=stream, width=80)
    console.print(view.render())
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["trial", "eval_loss"] in [line[-2:] for line in lines]
    assert ["0", "1.25"] in [line[-2:] for line in lines]
    assert "['q_proj'] [bold]" in stream.getvalue()
    view.stage_changed(SFT.model_copy(update={"state": StageState.SUCCEEDED, "attempt": 1}))
    stream.truncate(0)
    console.print(view.render())
    assert "eval_loss" not in stream.getvalue()
