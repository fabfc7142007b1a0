"""Looking at all stages before a run: every problem at once, and keys that follow the inputs."""

import json
from pathlib import Path

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from workloads import WORKLOADS, load_function
from workloads.check import Checked, check

SPEC = """\
version: 1
name: a
stages:
  sft: {kind: sft, model: model, dataset: {train: [rows.jsonl]}}
  merge: {kind: merge, model: "${stages.sft.model}"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    (tmp_path / "rows.jsonl").write_text(json.dumps({"query": "a", "response": "b"}))
    return tmp_path


def _check(folder: Path, spec: str = SPEC) -> Checked:
    file = folder / "job.yaml"
    file.write_text(spec)
    loaded = load(file, (), {})
    return check(loaded, resolve(loaded, "./runs"))


def _problems(folder: Path, spec: str = SPEC) -> list[str]:
    with pytest.raises(SpecError) as caught:
        _check(folder, spec)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_every_kind_of_stage_has_functions_that_exist() -> None:
    for workload in WORKLOADS.values():
        assert callable(load_function(workload.check))
        assert callable(load_function(workload.run))


def test_keys_follow_inputs_and_pass_on_to_later_stages(folder: Path) -> None:
    first = _check(folder)
    assert first == _check(folder)
    assert {"raysmith", "torch", "transformers"} <= first.versions.keys()
    (folder / "rows.jsonl").write_text(json.dumps({"query": "a", "response": "c"}))
    rows_changed = _check(folder)
    (folder / "model" / "config.json").write_text('{"a": 1}')
    model_changed = _check(folder)
    found = (first, rows_changed, model_changed)
    for name in ("sft", "merge"):
        assert len({checked.keys[name] for checked in found}) == 3
    assert len({checked.digest for checked in found}) == 3


def test_all_problems_are_told_at_once(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()
    (folder / "rows.jsonl").unlink()
    model, rows = _problems(folder)
    assert model.startswith("stages.sft.model: ")
    assert rows.startswith("stages.sft.dataset.train[0]: no dataset at 'rows.jsonl'")


def test_a_base_model_without_a_chat_template_is_a_problem(folder: Path) -> None:
    (folder / "model" / "tokenizer_config.json").write_text("{}")
    assert _problems(folder) == ["stages.sft.model: the tokenizer of 'model' has no chat template"]
    (folder / "model" / "chat_template.jinja").write_text("x")
    assert _check(folder).notes == ()


def test_an_adapter_can_be_merged_and_not_trained_on(folder: Path) -> None:
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": "model"}))
    merge = SPEC.replace("${stages.sft.model}", "adapter")
    assert _check(folder, merge).keys.keys() == {"sft", "merge"}
    on_adapter = _problems(folder, SPEC.replace("model: model", "model: adapter"))
    assert on_adapter == ["stages.sft.model: 'adapter' is an adapter, and a full model is needed"]
    config.write_text(json.dumps({"base_model_name_or_path": "nowhere"}))
    (gone,) = _problems(folder, merge)
    assert gone.endswith(f"the adapter in '{adapter}': no model at 'nowhere'")
    full = _problems(folder, SPEC.replace("${stages.sft.model}", "model"))
    assert full == ["stages.merge.model: 'model' is a full model: there is nothing to merge"]
