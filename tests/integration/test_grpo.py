"""`raysmith run` with a GRPO stage on the real thing: vLLM engines, weight transfer, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.layout import Layout, RunLayout

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-m", "jobs.cli"]
STEPS, GENERATIONS, PROMPTS = 8, 4, 4
CANARY = "c4n4ry-in-a-c0al-mine"
"""A secret, which user code prints and raises errors with; it must be found nowhere."""

REWARDS = '''
"""Rewards of the test."""
import os
import time


def vowels(completions, **columns):
    """The share of letters that are vowels; slow enough to be killed in between."""
    time.sleep(0.2)
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]


async def picky(completions, number, **columns):
    """Fails on every tenth row."""
    if any(n % 10 == 3 for n in number):
        print("the secret is", os.environ["MY_SECRET"])
        raise ArithmeticError(f"row {number[0]} is not to its taste: {os.environ['MY_SECRET']}")
    return [0.1] * len(completions)
'''


@pytest.fixture(scope="module")
def spec(asked_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job with two train workers, two engines, and one batch ahead."""
    folder = tmp_path_factory.mktemp("grpo-job")
    rows = [{"query": f"Say {i}.", "number": i} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "my_rewards.py").write_text(REWARDS)
    job = folder / "job.yaml"
    job.write_text(f"""
version: 1
name: tiny
stages:
  rl:
    kind: grpo
    model: {asked_model}
    hub_token: "${{secret:MY_SECRET}}"
    dataset: {{train: [./rows.jsonl], max_length: 64}}
    rewards:
      - {{import_path: "my_rewards:vowels", weight: 1.0}}
      - {{import_path: "my_rewards:picky", weight: 0.5}}
    rollout:
      actors: 2
      num_generations: {GENERATIONS}
      max_completion_length: 48
      max_staleness: 1
      kv_cache: 64MB
    tuner: {{type: lora, rank: 4}}
    training:
      max_steps: {STEPS}
      per_device_train_batch_size: 4
      global_batch_size: {PROMPTS * GENERATIONS}
      learning_rate: 1e-2
      torch_dtype: float32
      deepspeed: zero2
    checkpoint: {{save_steps: 2}}
    resources: {{workers: 2}}
""")
    return job


class Run:
    """A run under way, and what it leaves."""

    def __init__(self, spec: Path, storage: Path, *options: str) -> None:
        self.spec, self.storage, self.options = spec, storage, options
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        command = [*COMMAND, "run", str(self.spec), "--storage", str(self.storage), *self.options]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**os.environ, "MY_SECRET": CANARY},
        )  # fmt: skip

    def again(self) -> None:
        """Starts the same command once more."""
        self.process = self._start()

    def finish(self, code: int = 0) -> str:
        """Waits for the end and returns what was printed."""
        output, _ = self.process.communicate(timeout=500)
        assert self.process.returncode == code, output
        return output

    @property
    def layout(self) -> RunLayout:
        """The one run in the storage."""
        layout = Layout(self.storage)
        (run_id,) = layout.runs("tiny")
        return layout.run("tiny", run_id)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file, of all attempts in turn."""
        attempts = sorted(self.storage.glob(f"tiny/*/stages/rl/attempt_*/{name}"))
        text = [line for path in attempts for line in path.read_text().splitlines()]
        return [json.loads(line) for line in text if line.endswith("}")]

    def steps(self) -> int:
        """The newest step that was recorded."""
        return max((r["global_step"] for r in self.lines("logging.jsonl")), default=0)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What happened to the engines."""
        return [r for r in self.lines("rollout_events.jsonl") if r["event"] == kind]

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Waits until a condition holds, while the run goes on."""
        for _ in self._while_it_runs():
            if condition():
                return

    def _while_it_runs(self) -> Iterator[int]:
        deadline = time.monotonic() + 300
        for turn in count():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "the run takes too long"
            yield turn
            time.sleep(0.02)

    def children(self) -> list[psutil.Process]:
        """All processes of the run."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def check(self) -> None:
        """The run ended well, and its prompts add up."""
        records = self.lines("logging.jsonl")
        attempts = sorted(self.storage.glob("tiny/*/stages/rl/attempt_*/logging.jsonl"))
        last = [json.loads(line) for line in attempts[-1].read_text().splitlines()]
        assert [r["global_step"] for r in last] == list(range(1, STEPS + 1))
        assert all(r["canary"] < 1e-3 for r in records if "canary" in r)
        ledger = json.loads((self.layout.stage("rl").checkpoint(STEPS) / "ledger.json").read_text())
        trained = [p for first, stop in ledger["trained"] for p in range(first, stop + 1)]
        assert len(trained) == len(set(trained)) == STEPS * PROMPTS
        assert (self.layout.artifact("rl") / "adapter_model.safetensors").is_file()
        told = [p for p in self.storage.rglob("*") if p.is_file() and told_in(p.read_bytes())]
        assert not told
        for completion in self.lines("completions.jsonl"):
            if completion.get("failures"):
                assert completion["advantage"] == 0
                assert completion["reward"] is None


def told_in(content: bytes) -> bool:
    """Whether the secret is in it."""
    return CANARY.encode() in content


def gone(processes: list[psutil.Process]) -> None:
    """Waits until processes have ended; those that no one reaps here count as ended."""
    deadline = time.monotonic() + 30

    def alive() -> list[psutil.Process]:
        return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    while left := alive():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.soak
def test_the_only_engine_is_killed_twice(spec: Path, tmp_path: Path) -> None:
    """Nothing goes on without it, so each time its replacement must be given weights and work."""
    run = Run(spec, tmp_path, "--set", "stages.rl.rollout.actors=1")
    run.wait_until(lambda: run.steps() >= 2)

    def recovered(times: int) -> bool:
        return len(run.events("rollout_actor_recovered")) == times

    assert not any(told_in(" ".join(p.cmdline()).encode()) for p in run.children())
    for kills in (1, 2):
        os.kill(run.events("rollout_actor_up")[-1]["pid"], signal.SIGKILL)
        run.wait_until(partial(recovered, kills))
    processes = run.children()
    output = run.finish()
    gone(processes)
    assert not told_in(output.encode())
    run.check()
    assert "2 rollout actors were replaced" in output


def test_a_rank_and_the_driver_are_killed(spec: Path, tmp_path: Path) -> None:
    """The run goes on from its checkpoint, without losing a prompt or training on one twice."""
    run = Run(spec, tmp_path)
    run.wait_until(lambda: run.steps() >= 3)
    workers = [p for p in run.children() if "RayTrainWorker" in " ".join(p.cmdline())]
    workers[-1].kill()
    run.wait_until(lambda: (run.layout.stage("rl").attempt(2).folder / "logging.jsonl").exists())
    run.wait_until(lambda: run.steps() >= 5)
    processes = run.children()
    run.process.kill()
    run.process.communicate()
    gone(processes)
    run.again()
    run.finish()
    run.check()
    failures = run.lines("failures.jsonl")
    assert {f["row"] % 10 for f in failures} == {3}
    assert all(f["source"] == "picky" for f in failures)
