"""What is found of an evaluation before it runs, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from workloads.check import Checked, check

ROWS: list[dict[str, Any]] = [
    {"query": "Is it good?", "response": "good"},
    {"query": "Is it bad?", "response": "bad"},
]


def checked(folder: Path, fields: str, rows: list[dict[str, Any]] = ROWS) -> Checked:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = folder / "job.yaml"
    job.write_text(
        "version: 1\nname: a\nstages:\n  check:\n    kind: evaluate\n"
        + "".join(f"    {line}\n" for line in fields.splitlines())
    )
    loaded = load(job, (), {})
    return check(loaded, resolve(loaded, "runs"))


def problems(folder: Path, fields: str, rows: list[dict[str, Any]] = ROWS) -> str:
    with pytest.raises(SpecError) as caught:
        checked(folder, fields, rows)
    return str(caught.value)


@pytest.fixture
def good(tiny_model: Path) -> str:
    """A stage in order."""
    return (
        f"model: {tiny_model}\ndataset: {{test: [rows.jsonl], max_length: 100}}\n"
        "generation: {max_new_tokens: 10}"
    )


def test_a_good_stage_passes(good: str, tmp_path: Path) -> None:
    found = checked(tmp_path, f'{good}\ngate: {{loss: "< 3", samples_per_second: "> 0"}}')
    assert set(found.digests["check"]) == {"model", "dataset.test[0]"}


def test_a_gate_on_what_is_not_measured_names_the_nearest(good: str, tmp_path: Path) -> None:
    text = problems(tmp_path, f'{good}\ngate:\n  loss: "< 3"\n  rouge: ">= 20"\n  f1: "> 0.5"')
    assert "job.yaml:11:14: stages.check.gate.rouge: nothing measures 'rouge'" in text
    assert "did you mean 'rouge_" in text
    assert "nothing measures 'f1'" in text


def test_a_gate_may_name_one_of_several_models(tiny_model: Path, tmp_path: Path) -> None:
    several = (
        f"models: {{base: {tiny_model}, tuned: {tiny_model}}}\n"
        "dataset: {test: [rows.jsonl], max_length: 100}\ngeneration: {max_new_tokens: 10}\n"
    )
    checked(tmp_path, several + 'gate: {loss: "< 3", tuned.loss: "< 2"}')
    assert "did you mean 'tuned.loss'?" in problems(tmp_path, several + 'gate: {tund.loss: "< 3"}')


def test_a_bound_that_is_none_is_located(good: str, tmp_path: Path) -> None:
    text = problems(tmp_path, f"{good}\ngate: {{loss: 3 or less}}")
    assert "job.yaml:9" in text
    assert "'3 or less' is no bound" in text


def test_rows_must_hold_what_is_compared(good: str, tmp_path: Path) -> None:
    text = problems(tmp_path, f"{good}\nmetrics: [loss, accuracy]", [{"query": "a"}])
    assert "metrics[0]: no row holds an answer, which loss compares with" in text
    assert "metrics[1]: no row holds an answer, which accuracy" in text


def test_rows_must_be_of_the_classes(good: str, tmp_path: Path) -> None:
    text = problems(
        tmp_path,
        f"{good}\nmetrics: [classification]\nlabels: [good, fair]",
    )
    assert "rows are of classes that labels don't name, such as bad" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("dataset: {test: [rows.jsonl]}", "neither is given\n  fix: add `model`"),
        (
            "model: m\nmodels: {a: m}\ndataset: {test: [rows.jsonl]}",
            "fix: keep one",
        ),
        ("model: m", "there is nothing to measure on"),
        ("model: m\ndataset: {test: [rows.jsonl]}\nmetrics: [classification]", "name them: labels"),
        ("model: m\ndataset: {test: [rows.jsonl]}\nlabels: [a, b]", "labels are read by"),
        ("model: m\ndataset: {train: [rows.jsonl]}", "train"),
        (
            "model: m\ndataset: {test: [rows.jsonl]}\n"
            "engine: {tensor_parallel_size: 2, gpus_per_actor: 1}",
            "make them equal",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields: str, message: str, tmp_path: Path) -> None:
    assert message in problems(tmp_path, fields)


def test_prompt_and_answer_must_fit_the_model(tiny_model: Path, tmp_path: Path) -> None:
    text = problems(tmp_path, f"model: {tiny_model}\ndataset: {{test: [rows.jsonl]}}")
    assert "may have 1,536 tokens together, and the model looks at 512" in text


def test_adapters_that_engines_cannot_take_are_refused(
    good: str, tiny_model: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(tiny_model)}
    fields = good.replace(f"model: {tiny_model}", "model: ./adapter")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    checked(tmp_path, fields)
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    assert "has use_dora, which vLLM does not take" in problems(tmp_path, fields)
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "./gone"})
    )
    assert "no model at './gone'" in problems(tmp_path, fields)


def test_tasks_of_ones_own_are_named_by_their_file(tiny_model: Path, tmp_path: Path) -> None:
    fields = f"model: {tiny_model}\nlm_eval: {{tasks: [./mine.yaml, gsm8k]}}\n"
    assert "no lm-eval task at './mine.yaml'" in problems(tmp_path, fields)
    (tmp_path / "mine.yaml").write_text("dataset_path: json\n")
    assert "names no task" in problems(tmp_path, fields)
    (tmp_path / "mine.yaml").write_text("task: capitals\n")
    found = checked(tmp_path, fields + 'gate: {capitals.acc: "> 0.5", gsm8k.exact_match: "> 0"}')
    (tmp_path / "mine.yaml").write_text("task: capitals\nnum_fewshot: 1\n")
    assert checked(tmp_path, fields).digests != found.digests
    assert "nothing measures 'other.acc'" in problems(tmp_path, fields + 'gate: {other.acc: "> 0"}')


def test_where_engines_are_and_what_is_demanded_only_some_is_in_the_key(
    good: str, tmp_path: Path
) -> None:
    first = checked(tmp_path, good).keys
    assert checked(tmp_path, f"{good}\nengine: {{actors: 2, kv_cache: 2GB}}").keys == first
    assert checked(tmp_path, f'{good}\ngate: {{loss: "< 1"}}').keys == first
    assert checked(tmp_path, f"{good}\nengine: {{torch_dtype: float32}}").keys != first
    assert checked(tmp_path, f"{good}\nlevel: char").keys != first
