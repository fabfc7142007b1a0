"""The commands that look at a run, as they are typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import cli
from jobs.record import Record, StageStatus
from jobs.state import StageState
from storage.layout import Layout


def _run(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A run with one stage that has two ranks."""
    record = Record.create(
        Layout(tmp_path).run("bot", "run-1"), run_id="run-1", name="bot", plan_json="{}",
        spec_text="", lock={}, stages=(StageStatus(name="sft", kind="sft"),), digest="d",
    )  # fmt: skip
    record.move("sft", StageState.RUNNING, attempt=1)
    attempt = record.layout.stage("sft").attempt(1)
    attempt.folder.mkdir(parents=True)
    for rank in (0, 1):
        attempt.worker_log(rank).write_text(f"I am {rank}\n")
    return record


def test_logs_takes_a_stage_without_a_run(record: Record, tmp_path: Path) -> None:
    result = _run("logs", "sft", "--rank", 1, "--attempt", 1, "--storage", tmp_path)
    assert (result.exit_code, result.output) == (0, "sft[rank1] I am 1\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("sfd",), "the stages of the newest are: sft"),
        (("bot", "sfd"), "its stages are: sft"),
        (("sft", "--attempt", 2), "its attempts are: 1"),
        (("sft", "--rank", 2), "its ranks are: sft[rank0], sft[rank1]"),
        (("bot", "sft", "--address", "http://127.0.0.1:1"), "leave these out"),
    ],
)
def test_what_there_is_not_exits_with_2_and_tells_what_there_is(
    record: Record, tmp_path: Path, arguments: tuple[object, ...], told: str
) -> None:
    result = _run("logs", *arguments, "--storage", tmp_path)
    assert result.exit_code == 2
    assert told in result.stderr
