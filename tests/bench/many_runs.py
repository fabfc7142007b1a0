"""Times the commands that look for runs, with 10,000 runs in one storage root.

python -m tests.bench.many_runs --runs 10000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.observed import RunStatus, StageStatus, entry_of, timestamp
from jobs.record import Record
from jobs.runs import entries
from jobs.state import RunState
from storage.index import Index
from storage.layout import Layout

TRIES = 3
"""The best counts, since others may be at work on the machine."""

START = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Makes the runs, and prints the seconds that each command takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        newest = fill(layout, count)
        for words in ([], ["list"], ["list", "--state", "failed"], ["status"], ["status", newest]):
            command = [*words, "--storage", folder] if words else ["--version"]
            best = min(_seconds(command) for _ in range(TRIES))
            print(f"{best:6.2f} s  {' '.join(words) or '--version'}")


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs.cli", *command], check=True, capture_output=True)
    return time.perf_counter() - started


def fill(layout: Layout, count: int) -> str:
    """Makes so many runs, one by the real record and the rest after it; the newest one's name."""
    record = Record.create(
        layout.run("bot-0", "run-0"), run_id="run-0", name="bot-0", plan_json="{}", spec_text="",
        lock={}, digest="0" * 64, now=lambda: START,
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
    )  # fmt: skip
    record.finish(RunState.SUCCEEDED)
    index = Index(layout.root)
    for number in range(1, count):
        status = _later(record.status, number)
        run = layout.run(status.name, status.run_id)
        run.folder.mkdir(parents=True)
        for name in (record.layout.spec.name, record.layout.plan.name, record.layout.lock.name):
            (run.folder / name).write_bytes((record.layout.folder / name).read_bytes())
        run.status.write_text(status.model_dump_json(indent=2))
        index.put(entry_of(status))
    assert len(entries(layout)) == count
    return f"bot-{(count - 1) % 20}"


def _later(status: RunStatus, number: int) -> RunStatus:
    moment = timestamp(START + timedelta(minutes=number))
    changes = {
        "run_id": f"run-{number}",
        "name": f"bot-{number % 20}",
        "state": RunState.FAILED if number % 7 == 0 else RunState.SUCCEEDED,
        "digest": f"{number:064x}"[::-1],
        "created_at": moment,
        "changed_at": moment,
        "updated_at": moment,
    }
    return status.model_copy(update=changes)


if __name__ == "__main__":
    main()
