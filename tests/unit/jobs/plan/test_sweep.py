"""Sweeps in the plan: the values of trials, the stages they make, keys, edges, what is printed."""

import json
import math
import re
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SpecError
from jobs.load.loader import LoadedSpec, load
from jobs.load.tree import split_dotted
from jobs.plan.explain import explain
from jobs.plan.inputs import with_datasets
from jobs.plan.resolve import Plan, StagePlan, resolve, stage_key
from jobs.plan.sweep import drawn, metric_names, trial_count, trial_spec
from jobs.plan.text import plan_text
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import AshaSpec, SweepSpec

SFT = "{kind: sft, model: m, dataset: {train: [x], validation: 0.1}%s}"
GRPO = "{kind: grpo, model: m, dataset: {train: [x]}, rewards: [{name: accuracy}]%s}"
RATE, RANK = "training.learning_rate: {loguniform: [1e-5, 1e-3]}", "tuner.rank: {choice: [4, 8]}"
FULL = "  sft: {kind: sft, model: m, dataset: {train: [x]}, tuner: {type: full}}\n"


def _stages(trial: str = SFT % "", space: str = f"{RATE}, {RANK}", more: str = "") -> str:
    metric = "eval_loss, mode: min" if "kind: sft" in trial else "reward, mode: max"
    return (
        f"  sweep: {{kind: sweep, trial: {trial}, search_space: {{{space}}}, metric: {metric}, "
        f"num_samples: 6{more}}}\n"
    )


def _load(folder: Path, stages: str, sets: tuple[str, ...] = ()) -> LoadedSpec:
    file = folder / "job.yaml"
    file.write_text(f"version: 1\nname: a\nstages:\n{stages}")
    return load(file, sets, {})


def _plan(folder: Path, stages: str, sets: tuple[str, ...] = ()) -> Plan:
    return resolve(_load(folder, stages, sets), "./runs")


def _sweep(folder: Path, stages: str, sets: tuple[str, ...] = ()) -> SweepSpec:
    spec = _plan(folder, stages, sets).stage("sweep").spec
    assert isinstance(spec, SweepSpec)
    return spec


def _problem(folder: Path, stages: str) -> str:
    with pytest.raises(SpecError) as caught:
        _plan(folder, stages)
    return str(caught.value)


def test_a_trial_is_a_resolved_stage_with_its_values(tmp_path: Path) -> None:
    spec = _sweep(tmp_path, _stages())
    trial = trial_spec(spec, {"training.learning_rate": 2e-4, "tuner.rank": 4})
    assert isinstance(trial, SftSpec)
    assert (trial.training.learning_rate, trial.tuner.model_dump()["rank"]) == (2e-4, 4)
    assert (trial.training.warmup_ratio, trial.training.global_batch_size) == (0.05, 16)
    assert trial.training.eval_steps == trial.checkpoint.save_steps
    assert spec.trial.training.learning_rate is None  # left as it was written


def test_derived_values_follow_from_searched_ones(tmp_path: Path) -> None:
    spec = _sweep(tmp_path, _stages(GRPO % "", "rollout.num_generations: {choice: [4, 20]}"))
    trial = trial_spec(spec, {"rollout.num_generations": 20})
    assert trial.training.global_batch_size == 20


def test_values_may_be_in_lists_and_mappings(tmp_path: Path) -> None:
    trial = GRPO.replace("name: accuracy", "name: accuracy, params: {}") % ""
    space = "'rewards[0].weight': {choice: [2, 3]}, 'dataset.train[0]': {choice: [y]}"
    spec = _sweep(tmp_path, _stages(trial, space))
    made = trial_spec(spec, {"rewards[0].weight": 3, "dataset.train[0]": "y"})
    assert isinstance(made, GrpoSpec)
    assert (made.rewards[0].weight, made.dataset.train) == (3, ("y",))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("tuner.rnk", 8, "the trial has nothing at tuner.rnk"),
        ("tuner.rank", 1.5, "tuner.rank: expected a whole number, got 1.5"),
        ("tuner.rank", "8", "tuner.rank: expected a whole number, got the text '8'"),
        ("training.learning_rate", -1.0, "training.learning_rate: must be more than 0, got -1.0"),
        ("environment.max_turns", 2, "the trial has no environment; add it to the trial"),
        ("training.global_batch_size", 12, "num_generations 8; choose a global_batch_size"),
    ],
)
def test_what_does_not_fit_is_said_in_words(
    tmp_path: Path, path: str, value: Any, words: str
) -> None:
    spec = _sweep(tmp_path, _stages(GRPO % "", RATE))
    with pytest.raises(ValueError, match=re.escape(words)):
        trial_spec(spec, {path: value})


def test_draws_follow_from_seed_and_number_alone(tmp_path: Path) -> None:
    spec = _sweep(tmp_path, _stages())
    first = [drawn(spec, 42, index) for index in range(50)]
    assert first == [drawn(spec, 42, index) for index in range(50)]
    assert first[3] != drawn(spec, 43, 3)
    alone = _sweep(tmp_path, _stages(space=RATE))
    assert drawn(alone, 42, 3) == {"training.learning_rate": first[3]["training.learning_rate"]}


def test_draws_are_spread_as_the_domain_says(tmp_path: Path) -> None:
    space = (
        f"{RATE}, {RANK}, training.weight_decay: {{uniform: [0, 0.5]}}, "
        "training.warmup_steps: {randint: [2, 5]}"
    )
    spec = _sweep(tmp_path, _stages(space=space))
    draws: list[dict[str, Any]] = [drawn(spec, 1, index) for index in range(400)]
    logs = [math.log10(values["training.learning_rate"]) for values in draws]
    assert min(logs) >= -5
    assert max(logs) <= -3
    assert sum(logs) / 400 == pytest.approx(-4, abs=0.1)
    assert {values["tuner.rank"] for values in draws} == {4, 8}
    assert {values["training.warmup_steps"] for values in draws} == {2, 3, 4}
    decays = [values["training.weight_decay"] for values in draws]
    assert sum(decays) / 400 == pytest.approx(0.25, abs=0.03)


def test_every_combination_of_lists_is_tried_so_many_times(tmp_path: Path) -> None:
    space = (
        f"{RATE}, training.weight_decay: {{grid: [0, 0.1]}}, "
        "tuner.rank: {zip: [4, 8, 16]}, tuner.alpha: {zip: [8, 16, 32]}"
    )
    spec = _sweep(tmp_path, _stages(space=space))
    assert trial_count(spec) == 36
    trials = [drawn(spec, 0, index) for index in range(36)]
    lists = [(t["training.weight_decay"], t["tuner.rank"], t["tuner.alpha"]) for t in trials]
    assert set(lists[:6]) == {(d, r, 2 * r) for d in (0, 0.1) for r in (4, 8, 16)}
    assert lists[6:12] == lists[:6]
    assert len({trial["training.learning_rate"] for trial in trials}) == 36
    budgeted = _sweep(tmp_path, _stages(space=space, more=", budget: {trials: 10}"))
    assert trial_count(budgeted) == 10


def test_large_grids_are_not_written_out(tmp_path: Path) -> None:
    values = ", ".join(str(number / 400) for number in range(200))
    names = ("weight_decay", "adam_beta1", "adam_beta2")
    space = ", ".join(f"training.{name}: {{grid: [{values}]}}" for name in names)
    spec = _sweep(tmp_path, _stages(space=space))
    assert trial_count(spec) == 6 * 200**3
    assert drawn(spec, 0, 200**3 - 1) == {f"training.{name}": 199 / 400 for name in names}


def test_a_scheduler_may_be_its_name_alone(tmp_path: Path) -> None:
    by_name = _sweep(tmp_path, _stages(more=", scheduler: asha"))
    assert by_name.scheduler == AshaSpec()
    in_full = _sweep(tmp_path, _stages(more=", scheduler: {type: asha}"))
    assert by_name == in_full


def test_metrics_are_those_that_the_trial_logs(tmp_path: Path) -> None:
    sft = _sweep(tmp_path, _stages())
    assert {"loss", "token_acc", "eval_loss"} <= set(metric_names(trial_spec(sft, {})))
    bare = trial_spec(sft, {"dataset.validation": 0.0})
    assert "eval_loss" not in metric_names(bare)
    grpo = _sweep(tmp_path, _stages(GRPO % ", environment: {name: calculator}", RATE))
    names = metric_names(trial_spec(grpo, {}))
    assert {"reward", "kl", "rewards/accuracy/mean", "rewards/environment/std"} <= set(names)
    assert "kl" not in metric_names(trial_spec(grpo, {"algorithm.beta": 0.0}))


def test_metrics_that_some_trials_lack_are_refused(tmp_path: Path) -> None:
    stages = _stages(GRPO % "", "algorithm.beta: {choice: [0, 0.1]}").replace("reward, ", "kl, ")
    assert "trials do not log the metric 'kl'" in _problem(tmp_path, stages)


def test_pbt_may_change_numbers_of_the_algorithm(tmp_path: Path) -> None:
    pbt = ", scheduler: {type: pbt, perturbation_interval: 50}"
    _plan(tmp_path, _stages(GRPO % "", "algorithm.beta: {uniform: [0.01, 0.1]}", pbt))
    loss = "algorithm.loss_type: {choice: [grpo, dapo]}"
    assert "can't change then" in _problem(tmp_path, _stages(GRPO % "", loss, pbt))


def test_trials_must_have_as_many_processes_as_is_written(tmp_path: Path) -> None:
    stages = _stages(GRPO % "", "rollout.max_staleness: {grid: [0, 1]}")
    assert "6 of 12 trials can't run: with rollout.max_staleness 1" in _problem(tmp_path, stages)


def test_what_a_trial_takes_are_edges_of_the_sweep(tmp_path: Path) -> None:
    rows = '["${stages.rows.dataset}#5"]'
    trial = f"{{kind: grpo, model: '${{stages.sft.model}}', dataset: {{train: {rows}}}, rewards: "
    trial += "[{name: format}, {model: '${stages.sft.model}'}], hub_token: '${secret:TOKEN}'}"
    sample = "  rows: {kind: sample, model: '${stages.sft.model}', dataset: {prompts: [x]}}\n"
    merge = "  merge: {kind: merge, model: '${stages.sweep.model}'}\n"
    plan = _plan(tmp_path, FULL + sample + _stages(trial, RATE) + merge)
    sweep = plan.stage("sweep")
    assert sweep.inputs == {
        "trial.model": "sft", "trial.rewards[1].model": "sft", "trial.dataset.train[0]": "rows",
    }  # fmt: skip
    assert (sweep.produces, plan.stage("merge").needs) == ("adapter", ("sweep",))
    filled = with_datasets(sweep, {"trial.dataset.train[0]": Path("d"), "trial.model": Path("m")})
    assert isinstance(filled.spec, SweepSpec)
    assert filled.spec.trial.dataset.train == ("d#5",)
    assert filled.spec.trial.model == "${stages.sft.model}"
    assert Plan.from_json(plan.to_json()) == plan


def test_an_adapter_for_a_trial_is_a_misfit_at_its_place(tmp_path: Path) -> None:
    trial = SFT.replace("model: m", "model: '${stages.sft.model}'") % ""
    text = _problem(tmp_path, FULL.replace("full", "lora") + _stages(trial))
    assert "stages.sweep.trial.model: a full model is needed" in text


def _key(stage: StagePlan) -> str:
    return stage_key(stage, 0, dict.fromkeys(stage.inputs, "digest"), {})


@pytest.mark.parametrize(
    ("setting", "is_same"),
    [
        ("max_concurrent_trials=2", True),
        ("max_failed_trials=9", True),
        ("trial.resources.cpus_per_worker=1", True),
        ("trial.checkpoint.save_total_limit=1", True),
        ("trial.training.logging_steps=2", False),
        ("trial.training.weight_decay=0.2", False),
        ("num_samples=7", False),
        ("search_space.tuner.rank.choice=[4]", False),
        ("scheduler=asha", False),
    ],
)
def test_the_key_is_of_what_decides_the_best_trial(
    tmp_path: Path, setting: str, is_same: bool
) -> None:
    before = _plan(tmp_path, _stages()).stage("sweep")
    after = _plan(tmp_path, _stages(), (f"stages.sweep.{setting}",)).stage("sweep")
    assert (_key(before) == _key(after)) == is_same


def test_the_name_of_a_stage_that_a_trial_takes_is_not_in_the_key(tmp_path: Path) -> None:
    stages = FULL + _stages(SFT.replace("model: m", "model: '${stages.sft.model}'") % "")
    renamed = stages.replace("  sft:", "  tune:").replace("stages.sft", "stages.tune")
    before, after = _plan(tmp_path, stages), _plan(tmp_path, renamed)
    assert _key(before.stage("sweep")) == _key(after.stage("sweep"))


def test_processes_are_those_of_all_trials_at_a_time(tmp_path: Path) -> None:
    resources = ", resources: {workers: 2, cpus_per_worker: 3}"
    spec = _sweep(tmp_path, _stages(SFT % resources, more=", max_concurrent_trials: 4"))
    assert (spec.processes_at_once, spec.cpus_per_process) == (8, 3)


def test_the_plan_shows_what_is_searched(tmp_path: Path) -> None:
    more = ", scheduler: {type: asha, grace_period: 5}, budget: {time_s: 60}, plateau: {trials: 3}"
    space = f"{RATE}, {RANK}, training.warmup_steps: {{randint: [1, 9]}}"
    plan = _plan(tmp_path, _stages(space=space, more=f"{more}, max_concurrent_trials: 2"))
    lines = [" ".join(line.split()) for line in plan_text(plan, {"sweep": "run"}).splitlines()]
    row = "sweep sweep m 1 CPU 16 rows = 1 x 16 passes x 1 worker searched zero0 adapter run"
    assert row in lines
    for line in (
        "training.learning_rate 1e-05 to 0.001, loguniform",
        "tuner.rank one of 4, 8",
        "training.warmup_steps 1 to 8, whole numbers",
        "trials 6 of kind sft, 2 at a time",
        "best the least eval_loss",
        "scheduler asha, grace_period 5, reduction_factor 4",
        "budget time_s 60",
        "ends early with 4 failed trials, or 3 trials in a row without a better one",
    ):
        assert line in lines


def test_searched_parts_of_the_row_are_said_to_be_so(tmp_path: Path) -> None:
    space = "model: {choice: [m, n]}, training.global_batch_size: {grid: [8, 16]}"
    text = plan_text(_plan(tmp_path, _stages(space=space)), {"sweep": "run"})
    row = next(line for line in text.splitlines() if line.startswith("sweep  "))
    assert row.split()[2:6] == ["searched", "1", "CPU", "searched"]


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("trial.training.learning_rate", {"loguniform": [1e-5, 1e-3]}, "searched: %s:4"),
        ("trial.training.global_batch_size", 16, "derived: rows of a pass"),
        ("trial.model", "m", "%s:4"),
        ("search_space.tuner.rank.choice", [4, 8], "%s:4"),
        ("max_concurrent_trials", None, "default: as many as the cluster has room for"),
        ("num_samples", 6, "%s:4"),
    ],
)
def test_every_value_is_explained(tmp_path: Path, path: str, value: Any, text: str) -> None:
    loaded = _load(tmp_path, _stages())
    found = explain(loaded, resolve(loaded, "./runs"), f"stages.sweep.{path}")
    assert found.value == value
    assert found.text.startswith(text.replace("%s", str(loaded.path)))


def test_the_search_space_is_set_by_its_paths(tmp_path: Path) -> None:
    sets = (
        "stages.sweep.search_space.tuner.rank.choice=[2]",
        "stages.sweep.search_space.tuner.alpha={grid: [1, 2]}",
        "stages.sweep.search_space.training.weight_decay.uniform=[0, 0.1]",
        "stages.sweep.trial.training.learning_rate=1e-5",
    )
    spec = _sweep(tmp_path, _stages(), sets)
    domains = {path: domain.values for path, domain in spec.search_space.items()}
    assert domains == {
        "training.learning_rate": (1e-5, 1e-3),
        "tuner.rank": (2,),
        "tuner.alpha": (1, 2),
        "training.weight_decay": (0, 0.1),
    }
    assert spec.trial.training.learning_rate == 1e-5


def test_keys_with_dots_are_found_whole() -> None:
    tree = {"space": {"tuner.rank": {"grid": [1]}, "rewards[0].weight": {"grid": [1]}, "a": {}}}
    assert split_dotted("space.tuner.rank.grid[0]", tree) == ("space", "tuner.rank", "grid", 0)
    assert split_dotted("space.rewards[0].weight", tree) == ("space", "rewards[0].weight")
    assert split_dotted("space.a.b", tree) == ("space", "a", "b")


def test_a_plan_from_json_makes_the_same_trials(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _stages())
    read = Plan.from_json(json.dumps(json.loads(plan.to_json())))
    before, after = plan.stage("sweep").spec, read.stage("sweep").spec
    assert isinstance(before, SweepSpec)
    assert isinstance(after, SweepSpec)
    values = drawn(before, 42, 0)
    assert trial_spec(before, values) == trial_spec(after, values)
    assert with_changes(read, name="b") != plan
