"""Resolution, order, checks of the graph, keys, and the round trip through JSON."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import SpecError, UserError
from jobs.load.loader import LoadedSpec, load
from jobs.plan.explain import explain
from jobs.plan.resolve import Plan, resolve, stage_key
from jobs.plan.text import plan_text, summary
from jobs.spec.sft import SftSpec

HEAD = "version: 1\nname: a\nstages:\n"
SFT = "  sft: {kind: sft, model: m, dataset: {train: [x]}%s}\n"
MERGE = '  merge: {kind: merge, model: "${stages.sft.model}"}\n'


def _load(folder: Path, stages: str, sets: tuple[str, ...] = ()) -> LoadedSpec:
    file = folder / "job.yaml"
    file.write_text(HEAD + stages)
    return load(file, sets, {})


def _plan(folder: Path, stages: str, sets: tuple[str, ...] = ()) -> Plan:
    return resolve(_load(folder, stages, sets), "./runs")


def _sft(folder: Path, more: str = "") -> SftSpec:
    spec = _plan(folder, SFT % more).stage("sft").spec
    assert isinstance(spec, SftSpec)
    return spec


def test_defaults_that_depend_on_others(tmp_path: Path) -> None:
    training = _sft(tmp_path).training
    assert training.learning_rate == 1e-4
    assert training.warmup_ratio == 0.05
    assert training.per_device_eval_batch_size == 1
    assert training.eval_steps == 50
    assert training.gradient_checkpointing is False
    more = ", tuner: {type: full}, training: {warmup_steps: 0}, resources: {gpus_per_worker: 1}"
    other = _sft(tmp_path, more).training
    assert other.learning_rate == 1e-5
    assert other.warmup_ratio is None
    assert other.gradient_checkpointing is True


@pytest.mark.parametrize(
    ("training", "workers", "rows"),
    [
        ("", 1, 16),
        ("per_device_train_batch_size: 3", 2, 18),
        ("per_device_train_batch_size: 32", 1, 32),
        ("gradient_accumulation_steps: 2", 3, 6),
        ("global_batch_size: 8", 4, 8),
    ],
)
def test_the_global_batch(tmp_path: Path, training: str, workers: int, rows: int) -> None:
    resolved = _sft(tmp_path, f", training: {{{training}}}, resources: {{workers: {workers}}}")
    assert resolved.training.global_batch_size == rows
    assert resolved.training.gradient_accumulation_steps is None


def test_stages_run_behind_their_needs_and_else_as_written(tmp_path: Path) -> None:
    late = '  first: {kind: merge, model: "${stages.sft.model}", after: [last]}\n'
    last = "  last: {kind: sft, model: n, dataset: {train: [x]}}\n"
    plan = _plan(tmp_path, late + MERGE + SFT % "" + last)
    assert [stage.name for stage in plan.stages] == ["sft", "merge", "last", "first"]
    first = plan.stage("first")
    assert first.needs == ("sft", "last")
    assert first.inputs == {"model": "sft"}
    assert (plan.stage("sft").produces, first.produces) == ("adapter", "model")


def test_a_circle_is_named_in_order(tmp_path: Path) -> None:
    stages = "".join(
        f'  {name}: {{kind: merge, model: "${{stages.{need}.model}}"}}\n'
        for name, need in (("a", "b"), ("b", "c"), ("c", "a"))
    )
    with pytest.raises(SpecError, match="a -> b -> c -> a") as caught:
        _plan(tmp_path, stages)
    circle = [problem for problem in caught.value.problems if "circle" in problem.message]
    assert [(problem.line, problem.column) for problem in circle] == [(4, 27)]


def test_an_adapter_is_no_model_and_the_remedy_can_be_pasted(tmp_path: Path) -> None:
    more = '  more: {kind: sft, model: "${stages.sft.model}", dataset: {train: [x]}}\n'
    with pytest.raises(SpecError) as caught:
        _plan(tmp_path, SFT % "" + more)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (5, 28)
    assert "add a merge stage" in (problem.remedy or "")
    snippet = '  sft-merged: {kind: merge, model: "${stages.sft.model}"}\n'
    assert snippet.strip() in (problem.remedy or "")
    mended = more.replace("stages.sft.model", "stages.sft-merged.model")
    assert len(_plan(tmp_path, SFT % "" + snippet + mended).stages) == 3


def test_a_full_model_has_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nothing to merge"):
        _plan(tmp_path, SFT % ", tuner: {type: full}" + MERGE)


def test_json_round_trip(tmp_path: Path) -> None:
    more = ", hub_token: '${secret:HF_TOKEN}', tuner: {type: lora, target_modules: [q, v]}"
    plan = _plan(tmp_path, SFT % more + MERGE)
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert "${secret:HF_TOKEN}" in text
    with pytest.raises(ValueError, match="version 1"):
        Plan.from_json(text.replace('"plan_version": 1', '"plan_version": 9'))


def _key(
    folder: Path, stages: str = SFT % "", sets: tuple[str, ...] = (), name: str = "sft"
) -> str:
    return stage_key(_plan(folder, stages, sets).stage(name), 42, {"model": "d"}, {"torch": "2"})


@pytest.mark.parametrize(
    "setting",
    [
        "resources.workers=2",
        "resources.gpus_per_worker=1",
        "checkpoint.save_steps=7",
        "training.logging_steps=7",
        "hub_token=${secret:X}",
    ],
)
def test_the_key_ignores_what_does_not_change_the_result(tmp_path: Path, setting: str) -> None:
    assert _key(tmp_path, sets=(f"stages.sft.{setting}",)) == _key(tmp_path)


def test_the_key_follows_what_changes_the_result(tmp_path: Path) -> None:
    stage = _plan(tmp_path, SFT % "").stage("sft")
    keys = {
        _key(tmp_path),
        _key(tmp_path, sets=("stages.sft.training.learning_rate=1e-3",)),
        _key(tmp_path, sets=("stages.sft.training.global_batch_size=32",)),
        _key(tmp_path, sets=("stages.sft.model=n",)),
        stage_key(stage, 43, {"model": "d"}, {"torch": "2"}),
        stage_key(stage, 42, {"model": "e"}, {"torch": "2"}),
        stage_key(stage, 42, {"model": "d"}, {"torch": "3"}),
    }
    assert len(keys) == 7
    assert all(len(key) == 64 for key in keys)


def test_the_choice_of_the_best_checkpoint_is_part_of_the_key(tmp_path: Path) -> None:
    held_out, best = "stages.sft.dataset.validation=4", "stages.sft.checkpoint.%s"
    chosen = (held_out, best % "load_best_model_at_end=true")
    keys = {
        _key(tmp_path, sets=(held_out,)),
        _key(tmp_path, sets=chosen),
        _key(tmp_path, sets=(*chosen, best % "metric_for_best_model=eval_token_acc")),
        _key(tmp_path, sets=(*chosen, best % "save_steps=7")),
        _key(tmp_path, sets=(*chosen, "stages.sft.training.eval_steps=25")),
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("sft: {kind: sft, model: m, dataset: {train: [x]}, checkpoint: {%s}}", "set dataset.va"),
        (
            "sft: {kind: sft, model: m, dataset: {train: [x], validation: 4}, "
            "training: {eval_steps: 7}, checkpoint: {save_steps: 10, %s}}",
            "save_steps 10 is no multiple of training.eval_steps 7",
        ),
        (
            "rl: {kind: grpo, model: m, dataset: {train: [x]}, rewards: [{name: accuracy}], "
            "checkpoint: {%s}}",
            "there are no validation rows",
        ),
    ],
)
def test_the_best_checkpoint_must_be_measured(tmp_path: Path, stage: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        _plan(tmp_path, f"  {stage % 'load_best_model_at_end: true'}\n")


def test_the_key_knows_inputs_by_digest_and_not_by_name(tmp_path: Path) -> None:
    renamed = (SFT % "" + MERGE).replace("sft:", "train:").replace("stages.sft", "stages.train")
    merge = _key(tmp_path, SFT % "" + MERGE, name="merge")
    assert _key(tmp_path, renamed, name="merge") == merge


def test_every_layer_is_explained(tmp_path: Path) -> None:
    sets = ("stages.sft.tuner.rank=4",)
    loaded = _load(tmp_path, SFT % ", training: {learning_rate: 1e-3}", sets)
    plan = resolve(loaded, "./runs")

    def origin(path: str) -> tuple[object, str, int | None]:
        found = explain(loaded, plan, f"stages.sft.{path}")
        return found.value, found.layer, found.line

    assert origin("training.learning_rate") == (1e-3, "spec", 4)
    assert origin("tuner.rank") == (4, "set", None)
    assert origin("tuner.alpha") == (32.0, "default", None)
    assert origin("training.global_batch_size") == (16, "derived", None)
    assert origin("training.gradient_accumulation_steps") == (16, "derived", None)
    assert origin("dataset")[1:] == ("spec", 4)
    with pytest.raises(UserError, match=r"did you mean stages\.sft\.training\.learning_rate"):
        explain(loaded, plan, "stages.sft.training.learnign_rate")


def test_the_environment_is_named_as_an_origin(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(HEAD + SFT % "" + "seed: ${env:S}\n")
    loaded = load(file, (), {"S": "7"})
    assert "from ${env:S}" in explain(loaded, resolve(loaded, "./runs"), "seed").text


def test_the_table_shows_the_batch_arithmetic(tmp_path: Path) -> None:
    more = ", training: {per_device_train_batch_size: 2}, resources: {workers: 2}"
    plan = _plan(tmp_path, SFT % more + MERGE)
    assert "16 rows = 2 x 4 passes x 2 workers" in plan_text(plan, {"sft": "run", "merge": "run"})
    assert summary(plan) == "2 stages: sft -> merge"
    assert summary(replace(plan, stages=plan.stages[:1])) == "1 stage: sft"
