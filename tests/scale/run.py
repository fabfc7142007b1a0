"""What coordination costs at 10, 100 and 1,000 engines, by simulation on one core.

    python tests/scale/run.py [--steps 4]

Prints a table; each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.scale.bookkeeping import beat_ms, event_us, ledger_ms
from tests.scale.simulation import Outcome, Scale, run

SIZES = ((10, 5, 80), (100, 50, 800), (1000, 512, 8192))
"""Engines, ranks, completions of a step."""
HEAD = (
    "engines", "ranks", "completions", "CPU ms/step", "us/completion", "looks/request", "peak MiB",
    "files MB/step", "events", "deaths", "simulated s/step",
)  # fmt: skip


def measure(engines: int, ranks: int, completions: int, steps: int) -> tuple[Outcome, float]:
    """One simulated run, and this process's peak memory in MiB above what it began with."""
    logging.getLogger("workloads.grpo.fleet").setLevel(logging.ERROR)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Scale(engines, ranks, completions, steps), Path(folder))
    return outcome, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Runs all sizes and prints what they cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    rows: list[tuple[str, ...]] = [HEAD]
    for engines, ranks, completions in SIZES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            outcome, mib = pool.submit(measure, engines, ranks, completions, steps).result()
        rows.append(
            (
                str(engines), str(ranks), str(completions), f"{outcome.cpu_s / steps * 1e3:.0f}",
                f"{outcome.cpu_s / steps / completions * 1e6:.0f}",
                f"{outcome.looked_at / outcome.calls['generate']:.1f}", f"{mib:.0f}",
                f"{outcome.bytes_written / steps / 1e6:.2f}", str(outcome.events),
                str(outcome.report["restarts"]), f"{outcome.simulated_s / steps:.0f}",
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print()
    for steps_done in (100, 1_000, 10_000):
        print(f"ledger, 1,024 prompts a step: {ledger_ms(steps_done):.2f} ms at step {steps_done}")
    for stages in (1, 10, 100):
        print(f"status.json of {stages} stages: {beat_ms(stages):.2f} ms a beat")
    print(f"events.jsonl: {event_us():.0f} us an event")


if __name__ == "__main__":
    main()
