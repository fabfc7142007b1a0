"""`raysmith run` with its storage in S3: from one machine to another, with nothing but the URI."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server import CREDENTIALS, s3_client, s3_process

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 80
STORAGE = "s3://runs/team"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_process() as address:
        yield address


@pytest.fixture(scope="module")
def client(endpoint: str) -> Any:
    made = s3_client(endpoint)
    made.create_bucket(Bucket="runs")
    return made


@pytest.fixture
def spec(tiny_model: Path, tmp_path: Path) -> Path:
    """A small job of two stages."""
    rows = [{"query": f"What is {i}?", "response": f"It is {i}. " * (1 + i % 4)} for i in range(44)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    job = tmp_path / "job.yaml"
    job.write_text(f"""
version: 1
name: tiny
stages:
  sft:
    kind: sft
    model: {tiny_model}
    dataset: {{train: [./rows.jsonl]}}
    tuner: {{type: lora, rank: 4, dropout: 0.1}}
    training: {{max_steps: {STEPS}, global_batch_size: 4, learning_rate: 1e-2}}
    checkpoint: {{save_steps: 4}}
  merge: {{kind: merge, model: "${{stages.sft.model}}"}}
""")
    return job


class Machine:
    """A machine of its own, as far as raysmith can tell: nothing is shared but the store."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        (folder / "raysmith").mkdir(parents=True)
        self._environ = {
            **os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": endpoint,
            "XDG_CACHE_HOME": str(folder),
        }  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `raysmith`, with the storage."""
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *arguments, "--storage", STORAGE],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._environ, start_new_session=True,
        )  # fmt: skip

    def call(self, *arguments: str, code: int = 0) -> str:
        """What `raysmith` prints."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == code, output
        return output


def keys(client: Any) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix="team/")
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def losses(client: Any, attempt: int) -> dict[int, float]:
    """The loss of each step, as an attempt's log in the store has it."""
    (key,) = [k for k in keys(client) if k.endswith(f"sft/attempt_{attempt}/logging.jsonl")]
    text = client.get_object(Bucket="runs", Key=key)["Body"].read().decode()
    records = [json.loads(line) for line in text.splitlines()]
    return {r["global_step"]: r["loss"] for r in records if "loss" in r}


@pytest.mark.soak
def test_a_run_goes_on_on_another_machine(
    spec: Path, client: Any, endpoint: str, tmp_path: Path
) -> None:
    one, two, laptop = (Machine(tmp_path / name, endpoint) for name in ("one", "two", "laptop"))
    process = one.start("run", str(spec))
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if any(f"step {step}/" in line for step in range(9, STEPS)):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    committed = [key for key in keys(client) if key.endswith("_COMMITTED.json")]
    assert any("/checkpoint-" in key for key in committed), "".join(said)

    # Its driver was on this host, and is gone, which the process table tells at once.
    output = two.call("run", str(spec))
    assert "going on from step" in output
    assert "s3://runs/team/tiny/" in output
    resumed = losses(client, 2)
    assert sorted(resumed) == list(range(1, STEPS + 1))

    status = json.loads(laptop.call("status", "--json"))
    assert status["state"] == "succeeded"
    assert [stage["state"] for stage in status["stages"]] == ["succeeded", "succeeded"]
    assert "sft[rank0]" in laptop.call("logs", "tiny")
    plan = laptop.call("plan", str(spec))
    assert plan.count("cached") == 2
    events = [k for k in keys(client) if k.endswith("events.jsonl")]
    text = client.get_object(Bucket="runs", Key=events[0])["Body"].read().decode()
    assert text.count('"run_finished"') == 1

    # The same job with nothing in its way does the same.
    again = Machine(tmp_path / "again", endpoint)
    client.delete_objects(Bucket="runs", Delete={"Objects": [{"Key": key} for key in keys(client)]})
    again.call("run", str(spec))
    assert losses(client, 1) == resumed
