"""From a model's own answers to a pushed model: sample, train on the best, export, push."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from storage.committed import read_committed
from storage.layout import Layout, RunLayout

if TYPE_CHECKING:
    from tests.conftest import SaveLlama

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

JOB = """
version: 1
name: distill
stages:
  sample:
    kind: sample
    model: ./model
    dataset: {prompts: [./rows.jsonl], max_length: 64}
    n: 4
    generation: {max_new_tokens: 8}
    rewards: [{import_path: "distill_rewards:has_letter"}]
    keep: {min_reward: 1.0, truncated: true}
  sft:
    kind: sft
    model: ./model
    dataset: {train: ["${stages.sample.dataset}#4"]}
    tuner: {type: lora, rank: 4}
    training: {max_steps: 2, global_batch_size: 2}
  export:
    kind: export
    model: ${stages.sft.model}
    quantize: {method: int8}
    ollama: {}
    push: {to: "s3://models/distilled"}
"""
REWARDS = """
def has_letter(completions, **columns):
    return [float("e" in text or "a" in text) for text in completions]
"""


@pytest.fixture(scope="module")
def job(tiny_model: Path, save_llama: SaveLlama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job, with a model whose heads vLLM on CPUs has attention for."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("job")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    save_llama(folder / "model", tokenizer, hidden_size=128, num_attention_heads=4)
    rows = [{"query": f"Say something about {i}.", "response": str(i)} for i in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "distill_rewards.py").write_text(REWARDS)
    (folder / "job.yaml").write_text(JOB)
    return folder


def run(job: Path, s3_server: str) -> subprocess.CompletedProcess[str]:
    """Runs the job to its end."""
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "jobs.cli", "run", "job.yaml", "--storage", "runs"]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        command, cwd=job, env=os.environ | settings | {"PYTHONPATH": root}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def the_run(job: Path) -> RunLayout:
    """The one run of the job."""
    layout = Layout(job / "runs")
    (run_id,) = layout.runs("distill")
    return layout.run("distill", run_id)


def events(layout: RunLayout, kind: str) -> list[dict[str, Any]]:
    """The run's events of a kind."""
    lines = [json.loads(line) for line in layout.events.read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_model_learns_from_its_best_answers_and_is_pushed(job: Path, s3_server: str) -> None:
    import boto3

    # The bucket is not there: the push is refused, and what was made stays.
    refused = run(job, s3_server)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "NoSuchBucket" in refused.stdout
    layout = the_run(job)
    made = read_committed(layout.artifact("export"), verify="digests")
    assert made

    rows = [
        json.loads(line)
        for line in (layout.artifact("sample") / "train.jsonl").read_text().splitlines()
    ]
    (sampled,) = events(layout, "sampled")
    assert (sampled["prompts"], sampled["answers"], sampled["rows"]) == (12, 48, len(rows))
    assert all(row["reward"] == 1 and row["model"] == "model" for row in rows)
    assert all(set(row["messages"][-1]["content"]) & set("ae") for row in rows)
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert {row["solution"] for row in rows} <= {str(i) for i in range(12)}

    client = boto3.Session().client(
        "s3", endpoint_url=s3_server, aws_access_key_id="test", aws_secret_access_key="test",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="models")
    again = run(job, s3_server)
    assert again.returncode == 0, again.stdout + again.stderr
    # Only the push was left to do.
    kept = read_committed(layout.artifact("export"))
    assert kept
    assert kept == made
    (pushed,) = events(layout, "pushed")
    assert pushed["sent"] == len(made.files)
    found = client.list_objects_v2(Bucket="models", Prefix="distilled/")["Contents"]
    names = {entry["Key"].removeprefix("distilled/") for entry in found}
    assert {"README.md", "config.json", "model.safetensors", "model.gguf", "Modelfile"} <= names
    card = (layout.artifact("export") / "README.md").read_text()
    assert str(job) not in card
    assert "| sample | sample |" in card
    assert "last loss" in card
