"""What the ledger and the run's record cost as they grow."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from jobs.record import Record, StageStatus
from storage.layout import RunLayout
from workloads.grpo.ledger import Ledger

PROMPTS = 1024
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def ledger_after(steps: int) -> Ledger:
    """A ledger after so many steps, with one prompt in a hundred left out."""
    ledger = Ledger()
    for _ in range(steps):
        ledger_step(ledger)
    return ledger


def ledger_step(ledger: Ledger) -> None:
    """One step of `PROMPTS` prompts."""
    positions = [ledger.dispatch() for _ in range(PROMPTS)]
    for position in positions:
        ledger.complete(position)
        if position % 100 == 0:
            ledger.filter(position)
    ledger.train(position for position in positions if position % 100)


def ledger_ms(steps: int) -> float:
    """Milliseconds of one step and its saving, after so many."""
    ledger = ledger_after(steps)

    def step() -> None:
        ledger_step(ledger)
        ledger.to_json()

    return _median_s(step, 3) * 1e3


def record_of(folder: Path, stages: int) -> Record:
    """The record of a run of so many stages, whose clock goes on by a minute at each look."""
    minutes = count()
    return Record.create(
        RunLayout(folder / "run"),
        run_id="r",
        name="scale",
        plan_json="{}",
        spec_text="",
        lock={},
        stages=tuple(StageStatus(name=f"s{i}", kind="sft") for i in range(stages)),
        digest="d",
        now=lambda: _EPOCH + timedelta(minutes=next(minutes)),
    )


def beat_ms(stages: int) -> float:
    """Milliseconds in which a run's status is renewed."""
    with tempfile.TemporaryDirectory() as folder:
        return _median_s(record_of(Path(folder), stages).beat, 20) * 1e3


def event_us() -> float:
    """Microseconds in which an event is added."""
    with tempfile.TemporaryDirectory() as folder:
        record = record_of(Path(folder), 1)
        return _median_s(lambda: record.event("resized", "s0", workers=512), 1000) * 1e6


def _median_s(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[times // 2]
