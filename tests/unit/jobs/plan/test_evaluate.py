"""Evaluations in the plan: resolved values, edges from models, what is printed and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loaded import LoadedSpec
from jobs.load.loader import load
from jobs.plan.explain import explain
from jobs.plan.resolve import Plan, resolve
from jobs.plan.text import plan_text
from jobs.spec.evaluation import EvaluateSpec

STAGES = """\
  sft: {kind: sft, model: m, dataset: {train: [x]}}
  check:
    kind: evaluate
    models: {base: m, tuned: "${stages.sft.model}"}
    dataset: {test: ["a#5", b], max_length: 100}
    generation: {max_new_tokens: 28}
    engine: {actors: 2, cpus_per_actor: 3}
    gate: {tuned.loss: "< 2"}
  merge: {kind: merge, model: "${stages.sft.model}", after: [check]}
"""


def loaded(folder: Path, stages: str = STAGES) -> LoadedSpec:
    file = folder / "job.yaml"
    file.write_text(f"version: 1\nname: a\nstages:\n{stages}")
    return load(file, (), {})


def check_spec(plan: Plan) -> EvaluateSpec:
    spec = plan.stage("check").spec
    assert isinstance(spec, EvaluateSpec)
    return spec


def test_engines_have_room_for_prompt_and_answer(tmp_path: Path) -> None:
    plan = resolve(loaded(tmp_path), "runs")
    engine = check_spec(plan).engine
    assert (engine.max_model_len, engine.gpus_per_actor) == (128, 0)
    assert Plan.from_json(plan.to_json()) == plan
    scored = STAGES.replace("generation", "metrics: [loss]\n    generation")
    assert check_spec(resolve(loaded(tmp_path, scored), "runs")).engine.max_model_len == 101
    split = STAGES.replace("{actors: 2, cpus_per_actor: 3}", "{tensor_parallel_size: 2}")
    assert check_spec(resolve(loaded(tmp_path, split), "runs")).engine.gpus_per_actor == 2


def test_models_of_other_stages_are_taken_adapters_too(tmp_path: Path) -> None:
    stage = resolve(loaded(tmp_path), "runs").stage("check")
    assert stage.inputs == {"models.tuned": "sft"}
    assert (stage.needs, stage.produces) == (("sft",), "report")


def test_a_report_is_no_model(tmp_path: Path) -> None:
    wrong = STAGES.replace(
        'merge, model: "${stages.sft.model}"', 'merge, model: "${stages.check.model}"'
    )
    with pytest.raises(SpecError, match="the stage 'check' leaves a report, and this takes"):
        resolve(loaded(tmp_path, wrong), "runs")


def test_the_plan_says_what_is_measured(tmp_path: Path) -> None:
    plan = resolve(loaded(tmp_path), "runs")
    text = plan_text(plan, dict.fromkeys(("sft", "check", "merge"), "run"))
    assert "base, tuned" in text
    assert "models   base: m, tuned: ${stages.sft.model}" in text
    assert "rows     a#5, b; those of more than 100 tokens lose their beginning" in text
    assert "metrics  loss, exact_match, bleu, rouge" in text
    assert "answers  up to 28 tokens, greedy" in text
    assert "engines  2 x 3 cores" in text
    assert "gate     tuned.loss < 2" in text


def test_derived_values_say_their_rule(tmp_path: Path) -> None:
    spec = loaded(tmp_path)
    found = explain(spec, resolve(spec, "runs"), "stages.check.engine.max_model_len")
    assert (found.value, found.text) == (
        128, "derived: dataset.max_length + generation.max_new_tokens",
    )  # fmt: skip


def test_a_cluster_has_cores_for_all_engines(tmp_path: Path) -> None:
    spec = check_spec(resolve(loaded(tmp_path), "runs"))
    assert (spec.processes_at_once, spec.cpus_per_process) == (2, 3)
