"""What `raysmith logs` prints, of files that are there and of files that grow."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.record import Record, StageStatus
from jobs.state import RunState, StageState
from jobs.view.logs import POLL_S, print_logs
from storage.layout import Layout


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(
        Layout(tmp_path).run("bot", "run-1"),
        run_id="run-1",
        name="bot",
        plan_json="{}",
        spec_text="",
        lock={},
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
        digest="d",
    )


def start(record: Record, stage: str, attempt: int) -> None:
    record.move(stage, StageState.RUNNING, attempt=attempt)
    record.layout.stage(stage).attempt(attempt).folder.mkdir(parents=True)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def printed(
    record: Record, stage: str | None = None, attempt: int | None = None, rank: int | None = None
) -> list[str]:
    lines: list[str] = []
    print_logs(record.layout, stage, attempt=attempt, rank=rank, write=lines.append)
    return lines


def test_the_newest_attempt_of_each_stage_is_printed_with_ranks_in_order(record: Record) -> None:
    start(record, "sft", 1)
    append(record.layout.stage("sft").attempt(1).driver_log, b"first try\n")
    start(record, "sft", 2)
    second = record.layout.stage("sft").attempt(2)
    append(second.driver_log, b"second try\n")
    for rank in (10, 2):
        append(second.worker_log(rank), f"I am {rank}\n".encode())
    start(record, "merge", 1)
    append(record.layout.stage("merge").attempt(1).driver_log, b"no end of line")

    assert printed(record, "sft") == [
        "sft[driver] second try",
        "sft[rank2] I am 2",
        "sft[rank10] I am 10",
    ]
    assert printed(record)[-1] == "merge[driver] no end of line"
    assert printed(record, "sft", attempt=1) == ["sft[driver] first try"]


def test_a_progress_bar_leaves_its_last_state_and_bad_bytes_do_no_harm(record: Record) -> None:
    start(record, "sft", 1)
    append(record.layout.stage("sft").attempt(1).driver_log, b"10%\r50%\r100%\r\n\xff\n")
    assert printed(record) == ["sft[driver] 100%", "sft[driver] \ufffd"]


def test_follow_goes_through_new_files_and_attempts_until_the_run_ends(record: Record) -> None:
    start(record, "sft", 1)
    one = record.layout.stage("sft").attempt(1)
    two = record.layout.stage("sft").attempt(2)
    append(one.driver_log, b"whole\nhal")

    def partial_line_ends() -> None:
        append(one.driver_log, b"f\n")

    def new_attempt_starts() -> None:
        start(record, "sft", 2)
        append(two.worker_log(0), b"again\n")

    def run_ends() -> None:
        append(two.worker_log(0), b"last words")
        record.finish(RunState.STOPPED)

    lines, seen = follow(record, [partial_line_ends, new_attempt_starts, run_ends])
    assert seen == [1, 2, 3]
    assert lines == [
        "sft[driver] whole",
        "sft[driver] half",
        "sft[rank0] again",
        "sft[rank0] last words",
    ]


def test_a_file_that_is_written_anew_is_read_from_its_start(record: Record) -> None:
    start(record, "sft", 1)
    log = record.layout.stage("sft").attempt(1).driver_log
    append(log, b"a long first line\n")

    def rewritten() -> None:
        log.write_bytes(b"new\n")
        record.finish(RunState.FAILED)

    assert follow(record, [rewritten])[0] == ["sft[driver] a long first line", "sft[driver] new"]


def test_what_does_not_exist_is_named_with_what_does(record: Record) -> None:
    assert printed(record) == ["no logs yet"]
    with pytest.raises(UserError, match="its stages are: sft, merge"):
        printed(record, "sfd")
    with pytest.raises(UserError, match="not started"):
        printed(record, "sft", attempt=1)
    start(record, "sft", 1)
    start(record, "sft", 2)
    with pytest.raises(UserError, match=r"its attempts are: 1, 2$"):
        printed(record, "sft", attempt=3)


def test_one_rank_is_printed_alone_and_an_unknown_one_is_told_with_those_there_are(
    record: Record,
) -> None:
    start(record, "sft", 1)
    attempt = record.layout.stage("sft").attempt(1)
    append(attempt.driver_log, b"driver\n")
    with pytest.raises(UserError, match=r"(?s)stage sft has no log of rank 0.*none of any rank"):
        printed(record, "sft", rank=0)
    for rank in (0, 1, 11):
        append(attempt.worker_log(rank), f"I am {rank}\n".encode())
    append(attempt.rollout_log(1), b"an engine\n")
    assert printed(record, "sft", rank=1) == ["sft[rank1] I am 1"]
    assert printed(record, rank=11, attempt=1) == ["sft[rank11] I am 11"]
    ranks = r"sft\[rank0\], sft\[rank1\], sft\[rank11\]$"
    with pytest.raises(UserError, match=rf"(?s)no log of rank 2 in attempt 1.*{ranks}"):
        printed(record, "sft", attempt=1, rank=2)


def test_following_waits_for_a_rank_that_has_not_begun(record: Record) -> None:
    start(record, "sft", 1)
    log = record.layout.stage("sft").attempt(1).worker_log(1)

    def begins_and_ends() -> None:
        append(log, b"late\n")
        record.finish(RunState.STOPPED)

    assert follow(record, [begins_and_ends], rank=1)[0] == ["sft[rank1] late"]


def test_a_cached_stage_says_where_it_was_taken_from(record: Record) -> None:
    record.move("sft", StageState.CACHED, artifact="/runs/bot/old/artifacts/sft")
    said = "no logs yet; sft was taken from bot/old, see `raysmith logs bot/old`"
    assert printed(record) == [said]
    with pytest.raises(UserError, match="no log of rank 0; sft was taken from bot/old, see"):
        printed(record, "sft", rank=0)


def follow(
    record: Record, steps: list[Callable[[], None]], rank: int | None = None
) -> tuple[list[str], list[int]]:
    """The lines printed, and how many there were at each sleep, when one step is taken."""
    lines: list[str] = []
    counts: list[int] = []
    todo: Iterator[Callable[[], None]] = iter(steps)

    def sleep(seconds: float) -> None:
        assert seconds == POLL_S
        counts.append(len(lines))
        next(todo)()

    print_logs(record.layout, rank=rank, follow=True, write=lines.append, sleep=sleep)
    return lines, counts
