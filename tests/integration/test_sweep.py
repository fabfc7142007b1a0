"""`kind: sweep` on the real thing: Ray Tune, workers that stay, kills, and trials that fail."""

import csv
import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.layout import Layout, StageLayout
from tests.integration.test_run import finish, gone, start, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 160
TRIAL = """
    trial:
      kind: sft
      model: {model}
      dataset: {{train: [./rows.jsonl], validation: 8, max_length: 64}}
      tuner: {{type: lora, dropout: 0.1}}
      training:
        max_steps: {steps}
        per_device_train_batch_size: 4
        global_batch_size: 4
        eval_steps: 4
        torch_dtype: float32
        lr_scheduler_type: constant
      checkpoint: {{save_steps: 4}}
    metric: eval_loss
    mode: min
"""


def write_job(folder: Path, model: Path, steps: int, rest: str) -> Path:
    """A job with a sweep over rows that a tiny model learns something from."""
    words = ("red", "green", "blue", "one", "two", "three")
    rows = [{"query": f"Say {a} {b}", "response": f"{a} {b}"} for a in words for b in words]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    job = folder / "job.yaml"
    head = "version: 1\nname: tiny\nstages:\n  sweep:\n    kind: sweep"
    job.write_text(head + TRIAL.format(model=model, steps=steps) + rest)
    return job


def sweep_of(storage: Path) -> StageLayout:
    """The folder of the sweep in the one run of a storage."""
    layout = Layout(storage)
    (run_id,) = layout.runs("tiny")
    return layout.run("tiny", run_id).stage("sweep")


def events(storage: Path) -> list[dict[str, Any]]:
    """What the sweep has recorded so far."""
    if not list(storage.glob("tiny/*/stages/sweep/trials.jsonl")):
        return []
    text = sweep_of(storage).trials_jsonl.read_text()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def table(storage: Path) -> list[dict[str, str]]:
    """The rows of `trials.csv`."""
    return list(csv.DictReader(sweep_of(storage).trials_csv.read_text().splitlines()))


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.soak
def test_a_killed_sweep_goes_on_and_finds_the_best(tiny_model: Path, tmp_path: Path) -> None:
    # With room for one token no row is left to train on: the last trial fails.
    space = """
    search_space:
      training.learning_rate: {zip: [3e-2, 1e-5, 1e-3, 3e-2, 1e-5, 1e-3, 1e-3]}
      tuner.rank: {zip: [2, 2, 2, 8, 8, 8, 8]}
      dataset.max_length: {zip: [64, 64, 64, 64, 64, 64, 1]}
    max_concurrent_trials: 2
    scheduler: {type: asha, grace_period: 8, reduction_factor: 2}
"""
    job, storage = write_job(tmp_path, tiny_model, STEPS, space), tmp_path / "runs"

    process = start(job, storage)
    wait_until(lambda: any(e["event"] == "ended" for e in events(storage)), process)
    wait_until(lambda: events(storage)[-1]["event"] == "report", process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    gone(children)
    before = events(storage)

    # A worker that is lost on the way costs its trial a new attempt, and the sweep nothing.
    process = start(job, storage)
    wait_until(lambda: workers_of(process), process)
    # What was recorded before the kill, and not yet reported, is reported without a worker.
    known = len(events(storage))
    wait_until(lambda: any(e["event"] == "report" for e in events(storage)[known:]), process)
    workers_of(process)[0].send_signal(signal.SIGKILL)
    output = finish(process)

    ended = {e["trial"] for e in before if e["event"] == "ended" and e["state"] != "failed"}
    after = events(storage)[len(before) :]
    assert ended
    assert not ended & {e["trial"] for e in after if e["event"] == "started"}
    rows = table(storage)
    *rows, bad = rows
    assert len(rows) == 6
    assert {row["state"] for row in rows} == {"finished", "stopped"}
    assert bad["state"] == "failed"
    assert bad["reason"].startswith("user_error: dataset.train: no row is left to train on")
    assert sum(int(row["recoveries"]) for row in rows) >= 1
    assert all(row["reason"].startswith("asha") for row in rows if row["state"] == "stopped")
    assert all(int(row["step"]) < STEPS for row in rows if row["state"] == "stopped")
    best = min(rows, key=lambda row: float(row["eval_loss"]))
    assert f"best: trial_{int(best['trial']):04d}" in output
    saved = 6 * STEPS - sum(int(row["step"]) for row in rows)
    assert f"{saved:,} saved" in output
    assert saved > 0
    images = sweep_of(storage).attempt(2).images
    assert (images / "parallel_coordinates.png").stat().st_size > 10_000
    _same_as_a_run_of_its_own(storage, best, tmp_path)


def _same_as_a_run_of_its_own(storage: Path, best: dict[str, str], tmp_path: Path) -> None:
    """The best trial as a job measures what the trial measured, and leaves its weights."""
    layout = sweep_of(storage)
    alone = tmp_path / "alone"
    finish(start(layout.best_spec, alone))
    (log,) = alone.glob("tiny-best/*/stages/sweep/attempt_1/logging.jsonl")
    measured = [json.loads(line) for line in log.read_text().splitlines()]
    last = [record["eval_loss"] for record in measured if "eval_loss" in record][-1]
    assert last == pytest.approx(float(best["eval_loss"]), rel=1e-5)
    (artifact,) = alone.glob("tiny-best/*/artifacts/sweep")
    import torch
    from safetensors.torch import load_file

    theirs = load_file(layout.run.artifact("sweep") / "adapter_model.safetensors")
    for name, tensor in load_file(artifact / "adapter_model.safetensors").items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_population_learns_from_its_best(tiny_model: Path, tmp_path: Path) -> None:
    space = """
    search_space:
      training.learning_rate: {loguniform: [1e-6, 1e-2]}
    num_samples: 4
    max_concurrent_trials: 1
    scheduler: {type: pbt, perturbation_interval: 4, resample_probability: 0}
"""
    job, storage = write_job(tmp_path, tiny_model, 12, space), tmp_path / "runs"
    finish(start(job, storage))
    record = events(storage)
    changes = [e for e in record if e["event"] == "changed"]
    assert changes
    given = {e["trial"]: e["values"] for e in record if e["event"] == "started"}
    assert all(row["state"] == "finished" for row in table(storage))
    changed = changes[-1]
    assert given[changed["trial"]] == changed["values"]
    # The weights are the donor's: the loss is like its loss then, and not like the trial's own.
    reports = [e for e in record if e["event"] == "report"]
    place = record.index(changed)
    own = [e for e in reports if e["trial"] == changed["trial"]]
    before = [e for e in own if record.index(e) < place][-1]["metrics"]["eval_loss"]
    donor = [e for e in reports if e["trial"] == changed["from_trial"] and record.index(e) < place][
        -1
    ]["metrics"]["eval_loss"]
    after = next(e for e in own if record.index(e) > place)["metrics"]["eval_loss"]
    assert abs(after - donor) < abs(after - before)
