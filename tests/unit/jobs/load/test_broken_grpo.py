"""What people type wrong in a GRPO stage, and what they are told: place, reason and remedy."""

from pathlib import Path

import pytest

from jobs.load.loader import load
from jobs.load.spec_types import annotation_at, fields_below, sections
from jobs.load.unknown_keys import ELSEWHERE, RENAMED_IN
from jobs.plan.resolve import resolve
from tests.unit.jobs.load.broken import Broken

SPEC = """\
version: 1
name: a
stages:
  grpo:
    kind: grpo
    model: m
    dataset:
      train: [x.jsonl]
    rewards:
      - {name: accuracy}
    rollout:
      actors: 1
    algorithm:
      beta: 0.04
    training:
      max_steps: 8
    resources:
      workers: 1
  sft: {kind: sft, model: m, dataset: {train: [x.jsonl]}}
"""


ROLLOUT, ALGORITHM, TRAINING, REWARD = "actors: 1", "beta: 0.04", "max_steps: 8", "{name: accuracy}"
COLOCATED = "actors: 1\n      colocate: true\n      "

CASES = {
    "batch of broken passes": Broken(TRAINING,
        "global_batch_size: 12\n      per_device_train_batch_size: 8", (16, 26),
        "global_batch_size 12 is not a multiple", "choose 8 or 16"),
    "batch of broken groups": Broken(TRAINING, "global_batch_size: 12", (16, 26),
        "12 completions at a time can't be cut into groups of num_generations 8",
        "multiple of 8"),
    "passes of broken groups": Broken(TRAINING, "gradient_accumulation_steps: 12", (4, 3),
        "12 completions at a time", "multiple of 8"),
    "generation of broken groups": Broken("beta: 0.04\n    training:\n      max_steps: 8",
        "steps_per_generation: 3\n    training:\n      global_batch_size: 4", (16, 26),
        "12 completions at a time can't be cut into groups of num_generations 8"),
    "two rewards of one name": Broken(REWARD, f"{REWARD}\n      - {{name: accuracy}}", (9, 5),
        "two rewards are called 'accuracy'", "`label`"),
    "eval_steps": Broken(TRAINING, "eval_steps: 5", (16, 19),
        "training.eval_steps has no meaning here", "remove it"),
    "eval batch": Broken(TRAINING, "per_device_eval_batch_size: 5", (16, 35),
        "training.per_device_eval_batch_size has no meaning here", "remove it"),
    "float16 on CPUs": Broken(TRAINING, "torch_dtype: float16", (16, 20),
        "torch_dtype float16 needs GPUs", "choose bfloat16 or float32"),
    "more engines than workers": Broken(ROLLOUT, "actors: 2\n      colocate: true", (12, 15),
        "rollout.actors is 2 and resources.workers 1", "make them equal"),
    "cispo without a cap": Broken(ALGORITHM, "loss_type: cispo", (13, 5),
        "cispo needs epsilon_high", "5.0"),
    "no reference to follow": Broken(ALGORITHM, "beta: 0\n      sync_ref_model: true", (15, 23),
        "sync_ref_model without a reference model", "raise beta or remove it"),
    "colocated and stale": Broken(ROLLOUT, COLOCATED + "max_staleness: 1", (14, 22),
        "colocated engines sleep"),
    "colocated and split": Broken(ROLLOUT, COLOCATED + "tensor_parallel_size: 2", (14, 29),
        "a colocated engine has one GPU"),
    "reward of nothing": Broken(REWARD, "{weight: 2}", (10, 9), "a reward is one of name"),
    "reward of two": Broken(REWARD, "{model: m, name: accuracy}", (10, 26),
        "given are name, model", "keep one"),
    "environment of nothing": Broken(ROLLOUT, "actors: 1\n    environment: {max_turns: 2}", (13, 5),
        "an environment is either a name"),
    "environment of two": Broken(ROLLOUT,
        "actors: 1\n    environment: {name: calculator, import_path: 'a:b'}", (13, 50),
        "an environment is either a name"),
    "file for a module": Broken(REWARD, "{import_path: my_rewards.py}", (10, 23),
        "'my_rewards.py' is no import path", "a module without .py, a colon, and a name"),
    "label": Broken(REWARD, "{name: accuracy, label: is right}", (10, 33),
        "'is right' is not a valid label", "letters, digits and the signs"),
    "no rewards": Broken(f"rewards:\n      - {REWARD}\n", "rewards: []\n", (9, 5),
        "must not be empty", "at least one"),
    "rewards missing": Broken(f"    rewards:\n      - {REWARD}\n", "", (4, 3),
        "missing key 'rewards'", "add `rewards: [{name: accuracy}]` to stages.grpo"),
    "reward by its name alone": Broken(REWARD, "accuracy", (10, 9),
        "expected a mapping, got the text 'accuracy'", "write {name: accuracy}"),
    "reward by its path alone": Broken(REWARD, '"my:f"', (10, 9),
        "expected a mapping", "write {import_path: my:f}"),
    "environment by its name alone": Broken(ROLLOUT, "actors: 1\n    environment: calculator",
        (13, 18), "expected a mapping", "write {name: calculator}"),
    "unknown reward": Broken(REWARD, "{name: acuracy}", (10, 16),
        "got the text 'acuracy'", "did you mean 'accuracy'?"),
    "one completion": Broken(ROLLOUT, "num_generations: 1", (12, 24), "at least 2, got 1"),
    "truncation": Broken("[x.jsonl]", "[x.jsonl]\n      truncation_strategy: right", (9, 28),
        "expected delete or left"),
    "validation": Broken("[x.jsonl]", "[x.jsonl]\n      validation: 0.1", (9, 7),
        "unknown key 'validation'", "validation is for stages of kind sft"),
    "typo in the rollout": Broken(ROLLOUT, "num_generation: 4", (12, 7),
        "unknown key 'num_generation'", "did you mean 'num_generations'?"),
    "typo in a reward": Broken(REWARD, "{name: accuracy, wieght: 2}", (10, 26),
        "unknown key 'wieght'", "did you mean 'weight'?"),
    "typo in the algorithm": Broken(ALGORITHM, "los_type: grpo", (14, 7),
        "unknown key 'los_type'", "did you mean 'loss_type'?"),
    "rollout key in training": Broken(TRAINING, "num_generations: 4", (16, 7),
        "unknown key 'num_generations'", "num_generations belongs in stages.grpo.rollout"),
    "rollout key in another kind": Broken("model: m, dataset", "temperature: 1, model: m, dataset",
        (19, 20), "unknown key 'temperature'", "temperature is for stages of kind grpo"),
    "algorithm key in a reward": Broken(REWARD, "{name: accuracy, beta: 1}", (10, 26),
        "unknown key 'beta'", "beta belongs in stages.grpo.algorithm"),
    "top key in the stage": Broken("    model: m\n", "    model: m\n    name: b\n", (7, 5),
        "unknown key 'name'", "name belongs at the top of the file"),
    "reward_funcs": Broken("rewards:", "reward_funcs:", (9, 5),
        "unknown key 'reward_funcs'", "it is called 'rewards' here"),
    "reward_weights": Broken(TRAINING, "reward_weights: [1]", (16, 7),
        "unknown key", "write `weight` beside each reward's name"),
    "overlong_filter": Broken(ALGORITHM, "overlong_filter: true", (14, 7),
        "unknown key", "it is called 'mask_truncated_completions' here"),
    "vllm_gpu_memory_utilization": Broken(TRAINING, "vllm_gpu_memory_utilization: 0.5", (16, 7),
        "unknown key", "'gpu_memory_utilization' here, and belongs in stages.grpo.rollout"),
    "top_p": Broken(ROLLOUT, "top_p: 0.9", (12, 7), "unknown key 'top_p'", "whole distribution"),
    "cosine_max_len": Broken(REWARD, "{name: cosine, cosine_max_len: 9}", (10, 24),
        "unknown key", "`params`"),
    "stage in a reward's params": Broken(REWARD,
        '{import_path: "my:f", params: {model: "${stages.sft.model}"}}', (10, 47),
        "${stages.sft.model} may not stand here", "or a reward's"),
    "no such stage for a reward": Broken(REWARD, '{model: "${stages.sfd.model}"}', (10, 17),
        "there is no stage 'sfd'", "did you mean 'sft'?"),
    "adapter for a reward": Broken(REWARD, '{model: "${stages.sft.model}"}', (10, 17),
        "a full model is needed, and the stage 'sft' leaves an adapter",
        "    model: ${stages.sft-merged.model}"),
}  # fmt: skip


@pytest.mark.parametrize("broken", CASES.values(), ids=CASES.keys())
def test_the_problem_has_its_place_and_remedy(broken: Broken, tmp_path: Path) -> None:
    broken.check(SPEC, tmp_path)


def test_the_unbroken_spec_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(SPEC)
    assert len(resolve(load(file, (), {}), "./runs").stages) == 2


def test_what_others_call_otherwise_leads_to_fields_that_exist() -> None:
    kinds = sections(annotation_at({}, ("stages", "a")))
    paths = {".".join((*map(str, path), name)) for k in kinds for path, name in fields_below(k)}
    renamed = {path for names in RENAMED_IN.values() for path in names.values()}
    assert {*ELSEWHERE.values(), *renamed} - paths == set()
