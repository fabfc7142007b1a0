"""What training tells of itself: records, progress, and both going on after a resume."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import workloads.train.monitor
from jobs.observed import read_progress
from storage.layout import AttemptLayout
from workloads.train.monitor import Monitor, Window


class Seconds:
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    seconds = Seconds()
    monkeypatch.setattr(workloads.train.monitor, "time", seconds)
    return seconds


def _monitor(folder: Path, **more: Any) -> Monitor:
    folder.mkdir(exist_ok=True)
    return Monitor(AttemptLayout(folder), max_steps=10, steps_per_epoch=4, **more)


def _records(monitor: Monitor) -> list[dict[str, Any]]:
    return [json.loads(line) for line in monitor.layout.logging_jsonl.read_text().splitlines()]


def test_a_record_averages_over_its_window(tmp_path: Path, clock: Seconds) -> None:
    monitor = _monitor(tmp_path / "a")
    window = Window(seconds=4.0)
    window.add(loss=6.0, correct=2, learned=4, tokens=50)
    window.add(loss=2.0, correct=4, learned=4, tokens=50)
    clock.now += 20
    monitor.record(5, window, 1e-4, 0.5)
    monitor.record_evaluation(5, 0.7, 0.9, 1.25)
    monitor.close()
    train, evaluation = _records(monitor)
    assert train.pop("memory_gib") > 0
    assert train == {
        "loss": 1.0,
        "grad_norm": 0.5,
        "learning_rate": 1e-4,
        "token_acc": 0.75,
        "epoch": 1.25,
        "global_step": 5,
        "max_steps": 10,
        "elapsed_time": 20.0,
        "remaining_time": 20.0,
        "tokens_per_second": 25.0,
    }
    assert evaluation == {
        "eval_loss": 0.7,
        "eval_token_acc": 0.9,
        "eval_runtime": 1.25,
        "global_step": 5,
        "max_steps": 10,
    }
    assert re.match("events", next(monitor.layout.tensorboard.iterdir()).name)


def test_a_resumed_run_s_log_is_whole(tmp_path: Path, clock: Seconds) -> None:
    earlier = [{"loss": 2.0, "global_step": 1, "max_steps": 10}]
    monitor = _monitor(tmp_path / "b", first_step=6, elapsed_before_s=100.0, history=list(earlier))
    clock.now += 8
    monitor.record(8, Window(1.0, 1, 1, 1, 1.0), 1e-4, 0.5)
    monitor.close()
    first, second = _records(monitor)
    assert first == earlier[0]
    assert (second["elapsed_time"], second["remaining_time"]) == (108.0, 8.0)


def test_progress_is_told_at_most_every_half_second_and_at_the_end(
    tmp_path: Path, clock: Seconds
) -> None:
    monitor = _monitor(tmp_path / "c")

    def told(step: int) -> int | None:
        monitor.progress(step)
        progress = read_progress(monitor.layout.progress_json)
        return progress.step if progress else None

    assert told(1) == 1
    clock.now += 0.4
    assert told(2) == 1
    clock.now += 0.2
    assert told(3) == 3
    assert told(10) == 10
    monitor.close()
