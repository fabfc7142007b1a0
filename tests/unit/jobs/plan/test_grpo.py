"""GRPO stages in the plan: resolved values, edges to reward models, keys, and what is printed."""

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SpecError
from jobs.load.loader import LoadedSpec, load
from jobs.plan.explain import explain
from jobs.plan.resolve import Plan, resolve, stage_key
from jobs.plan.text import plan_text
from jobs.spec.grpo import GrpoSpec

GRPO = "  grpo: {kind: grpo, model: m, dataset: {train: [x]}, rewards: [{name: accuracy}]%s}\n"
MERGE = "  merge: {kind: merge, model: '${stages.grpo.model}'}\n"
JUDGE = "  judge: {kind: sft, model: %s, dataset: {train: [x]}, tuner: {type: %s}}\n"
JUDGED = (
    "  grpo: {kind: grpo, model: m, dataset: {train: [x]}, tuner: {type: full}, "
    "rewards: [{name: format}, {model: '${stages.judge.model}'}]}\n"
)


def _load(folder: Path, stages: str, sets: tuple[str, ...] = ()) -> LoadedSpec:
    file = folder / "job.yaml"
    file.write_text(f"version: 1\nname: a\nstages:\n{stages}")
    return load(file, sets, {})


def _plan(folder: Path, stages: str = GRPO % "", sets: tuple[str, ...] = ()) -> Plan:
    return resolve(_load(folder, stages, sets), "./runs")


def _grpo(folder: Path, more: str = "", sets: tuple[str, ...] = ()) -> GrpoSpec:
    spec = _plan(folder, GRPO % more, sets).stage("grpo").spec
    assert isinstance(spec, GrpoSpec)
    return spec


def test_defaults_on_cpus(tmp_path: Path) -> None:
    spec = _grpo(tmp_path)
    assert (spec.training.learning_rate, spec.training.warmup_ratio) == (1e-4, 0.05)
    assert spec.training.gradient_checkpointing is False
    assert (spec.rollout.gpus_per_actor, spec.rollout.engine) == (0, "inprocess")
    assert (spec.rollout.torch_dtype, spec.rollout.canary_tolerance) == ("bfloat16", 0.2)
    assert spec.rollout.max_model_len == 1024 + 512
    assert spec.algorithm.scale_rewards == "group"
    assert (spec.generation_batch_size, spec.prompts_per_generation) == (16, 2)


def test_defaults_on_gpus(tmp_path: Path) -> None:
    spec = _grpo(
        tmp_path, ", tuner: {type: full}, resources: {gpus_per_worker: 1}, "
        "rollout: {tensor_parallel_size: 2}, algorithm: {advantage_estimator: rloo}"
    )  # fmt: skip
    assert spec.training.learning_rate == 1e-5
    assert spec.training.gradient_checkpointing is True
    assert (spec.rollout.gpus_per_actor, spec.rollout.engine) == (2, "async")
    assert spec.algorithm.scale_rewards == "none"


def test_engines_may_be_told_otherwise_than_training(tmp_path: Path) -> None:
    rollout = "rollout: {gpus_per_actor: 1, torch_dtype: bfloat16}"
    engines = _grpo(tmp_path, f", training: {{torch_dtype: float32}}, {rollout}").rollout
    assert (engines.gpus_per_actor, engines.engine) == (1, "async")
    assert (engines.torch_dtype, engines.canary_tolerance) == ("bfloat16", 0.2)


def test_exact_arithmetic_has_a_strict_canary(tmp_path: Path) -> None:
    engines = _grpo(tmp_path, ", training: {torch_dtype: float32}").rollout
    assert (engines.torch_dtype, engines.canary_tolerance) == ("float32", 1e-3)


def test_an_environment_makes_sequences_longer(tmp_path: Path) -> None:
    more = ", environment: {name: calculator, max_turns: 3}"
    assert _grpo(tmp_path, more).rollout.max_model_len == 1024 + 3 * 512 + 2 * 256
    given = _grpo(tmp_path, more, ("stages.grpo.rollout.max_model_len=700",))
    assert given.rollout.max_model_len == 700


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ("", 16),
        ("training: {global_batch_size: 8}", 8),
        ("training: {gradient_accumulation_steps: 24}", 24),
        ("rollout: {num_generations: 3}", 18),
        ("rollout: {num_generations: 20}", 20),
        ("training: {per_device_train_batch_size: 3}, resources: {workers: 2}", 24),
    ],
)
def test_the_global_batch_has_whole_passes_and_groups(tmp_path: Path, more: str, size: int) -> None:
    spec = _grpo(tmp_path, f", {more}" if more else "")
    assert spec.training.global_batch_size == size
    assert spec.training.gradient_accumulation_steps is None


def test_a_grpo_stage_leaves_what_it_trains(tmp_path: Path) -> None:
    assert _plan(tmp_path, GRPO % "" + MERGE).stage("grpo").produces == "adapter"
    with pytest.raises(SpecError, match="nothing to merge"):
        _plan(tmp_path, GRPO % ", tuner: {type: full}" + MERGE)


def test_a_reward_model_of_another_stage_is_an_edge(tmp_path: Path) -> None:
    grpo = _plan(tmp_path, JUDGE % ("m", "full") + JUDGED).stage("grpo")
    assert grpo.needs == ("judge",)
    assert grpo.inputs == {"rewards[1].model": "judge"}


def test_a_reward_model_of_an_adapter_is_a_misfit_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        _plan(tmp_path, JUDGE % ("m", "lora") + JUDGED)
    (problem,) = caught.value.problems
    assert problem.path == "stages.grpo.rewards[1].model"
    assert (problem.line, problem.column) == (5, 110)
    assert "add a merge stage" in (problem.remedy or "")


def test_a_circle_is_located_at_the_edge_that_begins_it(tmp_path: Path) -> None:
    judge = JUDGE % ("'${stages.grpo.model}'", "full")
    for stages, place in (
        (judge + JUDGED, "judge.model"),
        (JUDGED + judge, "grpo.rewards[1].model"),
    ):
        with pytest.raises(SpecError) as caught:
            _plan(tmp_path, stages)
        (problem,) = caught.value.problems
        assert "stages wait for one another in a circle" in problem.message
        assert problem.path == f"stages.{place}"


@pytest.mark.parametrize(
    "more",
    [
        "",
        ", environment: {name: calculator}, algorithm: {epsilon: 0}",
        ", rollout: {colocate: true}, resources: {gpus_per_worker: 1}, training: {max_steps: 3}",
    ],
)
def test_json_round_trip(tmp_path: Path, more: str) -> None:
    plan = _plan(tmp_path, GRPO % more)
    assert Plan.from_json(plan.to_json()) == plan


def _key(folder: Path, stages: str = GRPO % "", sets: tuple[str, ...] = ()) -> str:
    return stage_key(_plan(folder, stages, sets).stage("grpo"), 42, {}, {})


@pytest.mark.parametrize(
    "setting",
    [
        "resources.gpus_per_worker=1",
        "rollout.actors=3",
        "rollout.cpus_per_actor=2",
        "rollout.kv_cache=2GB",
        "rollout.max_num_seqs=7",
        "rollout.sync_timeout_s=7",
        "rollout.max_actor_restarts=7",
        "rollout.gpu_memory_utilization=0.3",
        "rollout.enforce_eager=true",
        "rollout.canary_tolerance=0.5",
        "rewards=[{name: accuracy, label: b, workers: 2, timeout_s: 5}]",
        "checkpoint.save_steps=7",
        "training.logging_steps=7",
    ],
)
def test_the_key_ignores_what_does_not_change_the_result(tmp_path: Path, setting: str) -> None:
    assert _key(tmp_path, sets=(f"stages.grpo.{setting}",)) == _key(tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        "rollout.num_generations=4",
        "rollout.temperature=0.5",
        "rollout.max_staleness=1",
        "algorithm.beta=0",
        "rewards=[{name: accuracy, weight: 2}]",
        "environment={name: calculator}",
        "dataset.max_length=100",
    ],
)
def test_the_key_follows_what_changes_the_result(tmp_path: Path, setting: str) -> None:
    assert _key(tmp_path, sets=(f"stages.grpo.{setting}",)) != _key(tmp_path)


def test_the_key_does_not_know_the_name_of_a_reward_s_stage(tmp_path: Path) -> None:
    judged = JUDGE % ("m", "full") + JUDGED
    assert _key(tmp_path, judged) == _key(tmp_path, judged.replace("judge", "critic"))
    named = judged.replace("${stages.judge.model}", "critic")
    assert _key(tmp_path, judged) != _key(tmp_path, named)


def _explained(folder: Path, path: str, sets: tuple[str, ...] = ()) -> tuple[Any, str]:
    loaded = _load(folder, GRPO % "", sets)
    found = explain(loaded, resolve(loaded, "./runs"), f"stages.grpo.{path}")
    return found.value, found.text


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.global_batch_size", 16, "whole groups of num_generations"),
        ("training.gradient_accumulation_steps", 16, "global_batch_size /"),
        ("training.learning_rate", 1e-4, "1e-4 for adapters"),
        ("rollout.gpus_per_actor", 0, "tensor_parallel_size where training has GPUs"),
        ("rollout.engine", "inprocess", "async on GPUs"),
        ("rollout.torch_dtype", "bfloat16", "as training.torch_dtype"),
        ("rollout.max_model_len", 1536, "dataset.max_length + max_completion_length"),
        ("rollout.canary_tolerance", 0.2, "1e-3 where engine and training"),
        ("algorithm.scale_rewards", "group", "none for rloo"),
    ],
)
def test_derived_values_are_explained(tmp_path: Path, path: str, value: object, words: str) -> None:
    found, text = _explained(tmp_path, path)
    assert found == value
    assert text.startswith("derived: ")
    assert words in text


def test_a_reward_s_weight_is_explained_by_its_line(tmp_path: Path) -> None:
    assert _explained(tmp_path, "rewards[0].weight") == (1.0, "default")
    value, text = _explained(tmp_path, "rewards[0].name")
    assert value == "accuracy"
    assert text.endswith("job.yaml:4")


def test_the_text_says_what_the_stage_does(tmp_path: Path) -> None:
    more = (
        ", rollout: {actors: 2, num_generations: 4, max_staleness: 1}, training: {max_steps: 9}, "
        "environment: {import_path: 'shop:Shop', max_turns: 3}, "
        "algorithm: {loss_type: dapo, steps_per_generation: 2, beta: 0}"
    )
    sets = ("stages.grpo.rewards=[{name: accuracy}, {import_path: 'my:brief', weight: 0.1}]",)
    text = plan_text(_plan(tmp_path, GRPO % more, sets), {"grpo": "run"})
    assert "16 completions = 1 x 16 passes x 1 worker" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert "1 x accuracy, 0.1 x brief" in lines["rewards"]
    assert "2 on CPUs; inprocess, bfloat16; up to 1 update behind" in lines["engines"]
    assert "8 prompts x 4 completions of up to 512 tokens, for 2 steps" in lines["batch"]
    assert lines["steps"].endswith(" 9")
    assert "dapo, a ratio for each token; advantages of grpo, scaled by group; no KL" in text
    assert "shop:Shop, 3 turns" in lines["environment"]


def test_the_text_counts_gpus_and_names_three_datasets(tmp_path: Path) -> None:
    more = ", resources: {gpus_per_worker: 1}, training: {num_train_epochs: 2}"
    sets = ("stages.grpo.dataset.train=['a#5', b, c, d]",)
    text = plan_text(_plan(tmp_path, GRPO % more, sets), {"grpo": "run"})
    assert "a#5, b, c and 1 more; those of more than 1024 tokens lose their beginning" in text
    assert "1 x 1 GPU; async, bfloat16; strictly on-policy" in text
    assert "2 epochs of the prompts" in text
