"""Branches that train side by side, one of which stands still; and a run that is stopped twice."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.test_run import finish, gone, start, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 120


@pytest.fixture(scope="module")
def spec(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings that need a core each, and a merge of the first one's adapter."""
    folder = tmp_path_factory.mktemp("branches")
    rows = [{"query": f"What is {i} + {i}?", "response": f"It is {2 * i}."} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def branch(rank: int) -> str:
        return f"""
    kind: sft
    model: {tiny_model}
    dataset: {{train: [./rows.jsonl]}}
    tuner: {{type: lora, rank: {rank}}}
    training: {{max_steps: {STEPS}, global_batch_size: 8, learning_rate: 1e-2}}
    checkpoint: {{save_steps: 10}}
    resources: {{workers: 1, cpus_per_worker: 1}}
    stall_timeout: 10s"""

    job = folder / "job.yaml"
    job.write_text(f"""
version: 1
name: branches
stages:
  left:{branch(4)}
  right:{branch(8)}
  merge: {{kind: merge, model: "${{stages.left.model}}"}}
""")
    return job


def _events(storage: Path, *kinds: str) -> list[dict[str, Any]]:
    (file,) = storage.glob("branches/*/events.jsonl")
    events = map(json.loads, file.read_text().splitlines())
    return [event for event in events if event["event"] in kinds]


def _step(storage: Path, stage: str) -> int:
    progress = list(storage.glob(f"branches/*/stages/{stage}/attempt_*/progress.json"))
    steps = [json.loads(path.read_bytes()).get("step") or 0 for path in progress]
    return max(steps, default=0)


def _worker(storage: Path, stage: str) -> psutil.Process:
    (place,) = storage.glob(f"branches/*/stages/{stage}/attempt_1/worker_0.json")
    return psutil.Process(json.loads(place.read_bytes())["pid"])


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _ask(storage: Path, *options: str) -> Callable[[], int]:
    command = [sys.executable, "-m", "jobs.cli", "stop", "--storage", str(storage), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL).wait


@pytest.mark.soak
def test_a_branch_that_stands_still_is_tried_again_and_the_other_goes_on(
    spec: Path, tmp_path: Path
) -> None:
    process = start(spec, tmp_path)
    wait_until(lambda: _step(tmp_path, "left") > 10, process)
    wait_until(lambda: _step(tmp_path, "right") > 0, process)
    _worker(tmp_path, "left").send_signal(signal.SIGSTOP)
    family = _family(process)
    output = finish(process)
    gone(family)
    assert "[left] retrying: stalled: no progress for" in output
    retries = _events(tmp_path, "retry", "stalled")
    assert [(event["event"], event["stage"]) for event in retries] == [
        ("stalled", "left"), ("retry", "left"),
    ]  # fmt: skip
    (resumed,) = _events(tmp_path, "resumed")
    assert resumed["step"] >= 10
    moves = [(event["stage"], event["state"]) for event in _events(tmp_path, "stage")]
    assert moves[:2] == [("left", "running"), ("right", "running")]
    assert moves.index(("right", "succeeded")) < moves.index(("left", "succeeded"))
    assert moves[-1] == ("merge", "succeeded")
    assert [event["state"] for event in _events(tmp_path, "run_finished")] == ["succeeded"]


def test_a_run_that_is_stopped_twice_ends_at_once(spec: Path, tmp_path: Path) -> None:
    process = start(spec, tmp_path)
    wait_until(lambda: _step(tmp_path, "left") > 10, process)
    family = _family(process)
    # So that it can't commit what it is asked for.
    _worker(tmp_path, "left").send_signal(signal.SIGSTOP)
    assert _ask(tmp_path, "--no-wait")() == 0
    wait_until(lambda: list(tmp_path.glob("branches/*/stages/left/stop_request")), process)
    began = time.monotonic()
    assert _ask(tmp_path)() == 0
    finish(process, code=130)
    assert time.monotonic() - began < 60
    gone(family)
    assert [event["state"] for event in _events(tmp_path, "run_finished")] == ["stopped"]
    assert list(tmp_path.glob("branches/*/stages/left/checkpoint-*/_COMMITTED.json"))
