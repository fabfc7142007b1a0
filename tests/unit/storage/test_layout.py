"""The run folder: the paths are an interface for people and for older runs."""

import os
from pathlib import Path

import pytest

from jobs.errors import UserError
from storage.layout import Layout


def test_the_paths_of_a_run(tmp_path: Path) -> None:
    run = Layout(tmp_path).run("bot", "r1")
    stage = run.stage("sft")
    attempt = stage.attempt(2)
    paths = [
        run.spec, run.plan, run.lock, run.status, run.events, run.artifact("sft"),
        stage.checkpoint(50), stage.data, stage.stop_request,
        attempt.driver_log, attempt.worker_log(3), attempt.logging_jsonl, attempt.progress_json,
        attempt.args_json, attempt.tensorboard, attempt.images,
    ]  # fmt: skip
    assert [path.relative_to(tmp_path / "bot/r1").as_posix() for path in paths] == [
        "spec.yaml", "plan.json", "lock.json", "status.json", "events.jsonl", "artifacts/sft",
        "stages/sft/checkpoint-50", "stages/sft/data", "stages/sft/stop_request",
        "stages/sft/attempt_2/driver.log", "stages/sft/attempt_2/worker_3.log",
        "stages/sft/attempt_2/logging.jsonl", "stages/sft/attempt_2/progress.json",
        "stages/sft/attempt_2/args.json", "stages/sft/attempt_2/runs",
        "stages/sft/attempt_2/images",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    stage = Layout(tmp_path).run("bot", "r1").stage("sft")
    assert stage.checkpoints() == []
    for name in (
        "checkpoint-100",
        "checkpoint-9",
        "checkpoint-20",
        "checkpoint-x",
        "checkpoint-07",
    ):
        (stage.folder / name).mkdir(parents=True)
    (stage.folder / "checkpoint-30").write_text("a file")
    (stage.folder / "checkpoint-40").symlink_to("checkpoint-9")
    assert stage.checkpoints() == [stage.checkpoint(step) for step in (9, 20, 100)]


def test_runs_come_newest_first(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.names() == []
    assert layout.runs("bot") == []
    for seconds, run_id in enumerate(("b-old", "a-middle", "c-new")):
        run = layout.run("bot", run_id)
        run.folder.mkdir(parents=True)
        run.spec.write_text("version: 1")
        os.utime(run.spec, (seconds, seconds))
    (tmp_path / "bot" / ".cache").mkdir()
    (tmp_path / "Not-a-run").mkdir()
    assert layout.runs("bot") == ["c-new", "a-middle", "b-old"]
    assert layout.names() == ["bot"]


def test_names_are_checked_and_links_contained(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    run = layout.run("bot", "r1")
    (run.folder / "stages").mkdir(parents=True)
    (run.folder / "stages" / "sft").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leads outside"):
        run.stage("sft")
    with pytest.raises(UserError, match="run name"):
        layout.run("../bot", "r1")
    with pytest.raises(UserError, match="run id"):
        layout.run("bot", "..")
    with pytest.raises(UserError, match="stage name"):
        run.artifact("SFT")
    with pytest.raises(UserError, match="run name"):
        layout.runs("..")


def test_attempts_count_from_one_and_steps_from_zero(tmp_path: Path) -> None:
    stage = Layout(tmp_path).run("bot", "r1").stage("sft")
    with pytest.raises(ValueError, match="from 1"):
        stage.attempt(0)
    with pytest.raises(ValueError, match="0 or more"):
        stage.checkpoint(-1)
