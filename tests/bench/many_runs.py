"""How long `list`, `status` and `plan` take in a storage that holds many runs.

    python tests/bench/many_runs.py [--runs 10000]

The aim is under 2 s for each with 10,000 runs on a disk, the start of the program included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.record import Record, StageStatus
from jobs.state import RunState, StageState
from storage.layout import Layout

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = 20


def make(layout: Layout, number: int) -> None:
    """One run of several names, through the record that every run has."""
    moment, name = BEGAN + timedelta(minutes=number), f"job-{number % NAMES:02d}"
    run_id = f"{moment:%Y%m%d-%H%M%S}-{number:06x}"
    record = Record.create(
        layout.run(name, run_id),
        run_id=run_id,
        name=name,
        plan_json="{}",
        spec_text="version: 1",
        lock={},
        stages=tuple(StageStatus(name=each, kind="sft") for each in ("sft", "merge", "evaluate")),
        digest=f"{number:064x}",
        now=lambda: moment,
    )
    record.move("sft", StageState.RUNNING, attempt=1, key=f"{number:064x}")
    record.finish(RunState.FAILED)


def timed(*arguments: str) -> float:
    """Seconds that a command takes, with the program's start."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Makes the runs and prints the seconds of each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="many-runs-") as folder:
        layout = Layout(Path(folder))
        began = time.perf_counter()
        for number in range(count):
            make(layout, number)
        print(f"{count} runs made in {time.perf_counter() - began:.1f} s")
        storage = ("--storage", folder)
        for command in (("list",), ("list", "job-07"), ("status",), ("status", "job-07")):
            seconds = sorted(timed(*command, *storage) for _ in range(3))[1]
            print(f"raysmith {' '.join(command)}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
