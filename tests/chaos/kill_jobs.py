"""The jobs that are killed: tiny, but with every part that a large one has."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import ASKED, make_tokenizer, write_llama

STAGES_AFTER = 4
"""Stages that begin one after the other when training has ended."""
_REWARDS = '''"""Rewards of the job."""


def vowels(completions, **columns):
    """The share of letters that are vowels."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]
'''


def write_training(folder: Path, steps: int) -> Path:
    """A job of two ranks that trains a LoRA, then merges it again and again."""
    model = folder / "model"
    _prepare(folder)
    write_llama(model, make_tokenizer())
    merges = "".join(
        f"""
  merge-{n}:
    kind: merge
    model: "${{stages.sft.model}}"
    max_shard_size: {n + 1}GB
    after: [{f"merge-{n - 1}" if n else "sft"}]"""
        for n in range(STAGES_AFTER)
    )
    return _write(
        folder,
        f"""
  sft:
    kind: sft
    model: {model}
    dataset: {{train: [{folder}/rows.jsonl]}}
    tuner: {{type: lora, rank: 4, dropout: 0.1}}
    training:
      max_steps: {steps}
      per_device_train_batch_size: 2
      global_batch_size: 8
      learning_rate: 1e-2
      deepspeed: zero2
    checkpoint: {{save_steps: 4}}
    resources: {{workers: 2, cpus_per_worker: 1}}{merges}
""",
    )


def write_rollouts(folder: Path, steps: int) -> Path:
    """A job whose completions come from two engines, each batch from the weights before it."""
    model = folder / "model"
    _prepare(folder)
    write_llama(
        model,
        make_tokenizer(),
        **ASKED,
    )
    (folder / "my_rewards.py").write_text(_REWARDS)

    def rollouts(model: str, steps: int) -> str:
        return f"""
    kind: grpo
    model: {model}
    dataset: {{train: [{folder}/rows.jsonl], max_length: 64}}
    rewards: [{{import_path: "my_rewards:vowels"}}]
    rollout:
      actors: 2
      num_generations: 4
      max_completion_length: 48
      max_staleness: 0
      kv_cache: 64MB
    tuner: {{type: lora, rank: 4}}
    training:
      max_steps: {steps}
      per_device_train_batch_size: 4
      global_batch_size: 16
      learning_rate: 1e-2
      torch_dtype: float32
    checkpoint: {{save_steps: 2}}
    resources: {{workers: 1, cpus_per_worker: 1}}"""

    return _write(
        folder,
        f"""
  rl:{rollouts(str(model), steps)}
  merge: {{kind: merge, model: "${{stages.rl.model}}"}}
  more:{rollouts('"${stages.merge.model}"', 4)}
""",
    )


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [{"query": f"What is {i}?", "response": f"It is {i}. " * (1 + i % 4)} for i in range(44)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def _write(folder: Path, stages: str) -> Path:
    job = folder / "job.yaml"
    job.write_text(f"version: 1\nname: tiny\nstages:{stages}")
    return job
