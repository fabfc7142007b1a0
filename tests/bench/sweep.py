"""What a sweep costs: a trial's overhead, the driver's memory, and the time of a loop in a shell.

    python tests/bench/sweep.py --model FOLDER [--part overhead|loop] [--trials 64]

`overhead` runs many trials of one step each, two at a time: the seconds from one trial's end to the
next one's, once the workers are there (1.5 at most), and by how much the driver grows from the
first quarter of the trials to the last. `loop` runs nine trials as a sweep, and as nine jobs one
after another (the sweep needs at most half the time). The model should be tiny: what is measured is
all but the training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

TRIAL = {
    "kind": "sft",
    "dataset": {"train": ["./rows.jsonl"], "max_length": 128},
    "tuner": {"type": "lora", "rank": 2},
    "training": {"per_device_train_batch_size": 4, "global_batch_size": 4},
}
RATES, RANKS = (1e-5, 1e-4, 1e-3), (2, 8, 32)
STEPS_OF_LOOP = 16


def main() -> None:
    """Measures, and prints a line for each result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--part", choices=("overhead", "loop"))
    parser.add_argument("--trials", type=int, default=64)
    options = parser.parse_args()
    model = str(options.model.resolve())
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"query": f"Say {i}", "response": f"It is {i}"} for i in range(32)]
        Path(folder, "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        if options.part != "loop":
            print(overhead(Path(folder), model, options.trials), flush=True)
        if options.part != "overhead":
            print(loop(Path(folder), model), flush=True)


def overhead(folder: Path, model: str, trials: int) -> str:
    """Runs so many trials of one step."""
    sweep = {
        "kind": "sweep", "trial": _trial(model, 1), "metric": "loss", "mode": "min",
        "search_space": {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}},
        "num_samples": trials, "max_concurrent_trials": 2,
    }  # fmt: skip
    job = _write(folder, "overhead", {"sweep": sweep})
    process = _start(job, folder)
    memory: list[tuple[int, float]] = []
    while process.poll() is None:
        try:
            rss = psutil.Process(process.pid).memory_info().rss / 2**20
        except psutil.Error:
            break
        memory.append((sum(e["event"] == "ended" for e in _events(folder)), rss))
        time.sleep(0.2)
    if process.wait():
        raise SystemExit("the sweep failed")
    ends = [event["at"] for event in _events(folder) if event["event"] == "ended"]
    # The first of each worker's trials waits for the worker.
    each = (ends[-1] - ends[1]) / (len(ends) - 2)
    early = max(rss for count, rss in memory if 2 <= count <= trials / 4)
    # After the last one, pictures are drawn.
    late = max(rss for count, rss in memory if trials * 3 / 4 <= count < trials)
    return (
        f"overhead: {trials} trials, {each:.2f} s from one to the next with 2 at a time, so "
        f"{2 * each:.2f} s each, one step of training included (1.5 at most from one to the "
        f"next); driver {early:.0f} MiB in the first quarter, {late:.0f} in the last: "
        f"{late - early:+.0f}"
    )


def loop(folder: Path, model: str) -> str:
    """Runs the same nine trials both ways."""
    sweep = {
        "kind": "sweep", "trial": _trial(model, STEPS_OF_LOOP), "metric": "loss", "mode": "min",
        "search_space": {
            "training.learning_rate": {"grid": list(RATES)}, "tuner.rank": {"grid": list(RANKS)},
        },
        "max_concurrent_trials": 2,
    }  # fmt: skip
    began = time.monotonic()
    if _start(_write(folder, "swept", {"sweep": sweep}), folder).wait():
        raise SystemExit("the sweep failed")
    swept = time.monotonic() - began
    began = time.monotonic()
    for rate in RATES:
        for rank in RANKS:
            stage = _trial(model, STEPS_OF_LOOP)
            stage["training"]["learning_rate"] = rate
            stage["tuner"]["rank"] = rank
            if _start(_write(folder, "single", {"sft": stage}), folder).wait():
                raise SystemExit("a run failed")
    looped = time.monotonic() - began
    return (
        f"loop: nine trials as a sweep {swept:.1f} s, as nine runs {looped:.1f} s, ratio "
        f"{swept / looped:.2f} (0.50 at most)"
    )


def _trial(model: str, steps: int) -> dict[str, Any]:
    stage: dict[str, Any] = json.loads(json.dumps(TRIAL))
    stage["model"] = model
    stage["training"]["max_steps"] = steps
    return stage


def _write(folder: Path, name: str, stages: dict[str, Any]) -> Path:
    """JSON is YAML too."""
    job = folder / f"{name}.yaml"
    job.write_text(json.dumps({"version": 1, "name": name, "stages": stages}))
    return job


def _start(job: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.cli", "run", str(job), "--storage", str(folder / "runs")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _events(folder: Path) -> list[dict[str, Any]]:
    files = list(folder.glob("runs/overhead/*/stages/sweep/trials.jsonl"))
    lines = files[0].read_text().splitlines() if files else []
    return [json.loads(line) for line in lines if line.endswith("}")]


if __name__ == "__main__":
    main()
