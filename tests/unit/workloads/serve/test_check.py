"""A serve stage's model, adapters and keys are looked at before anything runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SpecError
from jobs.load.loader import load
from jobs.plan.resolve import resolve
from workloads.check import check

EMPTY_WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"


def model(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    return folder


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(folder.parent / "base")}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    (folder / "adapter_model.safetensors").write_bytes(EMPTY_WEIGHTS)
    return folder


def checked(folder: Path, more: str) -> None:
    file = folder / "job.yaml"
    file.write_text(f"version: 1\nname: a\nstages:\n  serve: {{kind: serve, {more}}}\n")
    loaded = load(file, (), {})
    check(loaded, resolve(loaded, "./runs"))


def test_models_and_adapters_of_every_place_are_served(tmp_path: Path) -> None:
    model(tmp_path / "base")
    adapter(tmp_path / "extra")
    (tmp_path / "keys").write_text(hashlib.sha256(b"a").hexdigest())
    checked(tmp_path, "model: base, adapters: {extra: extra}, auth: {api_keys_file: keys}")
    checked(tmp_path, "model: extra")


@pytest.mark.parametrize(
    ("more", "field", "expected"),
    [
        ("model: absent", "model", "no model at 'absent'"),
        ("model: base, adapters: {a: base}", "adapters.a", "is a full model"),
        ("model: base, adapters: {a: absent}", "adapters.a", "no model at 'absent'"),
        ("model: dora", "model", "has use_dora"),
        ("model: ia3", "model", "is of type IA3"),
        ("model: base, adapters: {a: high}", "adapters.a", "is of rank 513"),
        ("model: base, adapters: {a: head}", "adapters.a", "changes lm_head"),
        ("model: orphan", "model", "no model at 'nowhere'"),
        ("model: base, auth: {api_keys_file: no}", "auth.api_keys_file", "can't be read"),
        ("model: base, auth: {api_keys_file: job.yaml}", "auth.api_keys_file", "no sha256"),
    ],
)
def test_what_can_t_be_served_is_told(tmp_path: Path, more: str, field: str, expected: str) -> None:
    model(tmp_path / "base")
    adapter(tmp_path / "dora", use_dora=True)
    adapter(tmp_path / "ia3", peft_type="IA3")
    adapter(tmp_path / "high", rank_pattern={"q_proj": 513})
    head = adapter(tmp_path / "head") / "adapter_model.safetensors"
    nothing = b'{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
    header = b'{"base_model.model.lm_head.lora_A.weight": ' + nothing + b"}"
    head.write_bytes(len(header).to_bytes(8, "little") + header)
    adapter(tmp_path / "orphan", base_model_name_or_path="nowhere")
    with pytest.raises(SpecError) as caught:
        checked(tmp_path, more)
    (problem,) = caught.value.problems
    assert problem.path == f"stages.serve.{field}"
    assert expected in problem.message
    assert problem.line == 4
