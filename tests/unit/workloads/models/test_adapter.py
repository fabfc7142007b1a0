"""Adapters: their base, and what engines take of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UserError
from storage.commit import begin, commit
from storage.manifest import Owner
from workloads.engine import engine_rank
from workloads.models.adapter import base_model, lora_layers, lora_rank


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_base_is_what_the_adapter_names(tiny_model: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base_model_name_or_path=str(tiny_model))
    assert base_model(folder, (str(tmp_path),)).name == str(tiny_model.resolve())


def test_the_base_that_a_stage_recorded_wins(tiny_model: Path, tmp_path: Path) -> None:
    owner = Owner("r", "sft", "key", 1)
    begin(tmp_path / "adapter", owner)
    folder = adapter(tmp_path / "adapter", base_model_name_or_path="org/elsewhere")
    commit(folder, owner, {"base": str(tiny_model)})
    assert base_model(folder, (".",)).name == str(tiny_model.resolve())


def test_the_rank_is_the_greatest_of_any_layer(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", r=4, rank_pattern={"q_proj": 12})
    assert lora_rank(folder) == 12


@pytest.mark.parametrize(
    "config", [{"peft_type": "IA3"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}]
)
def test_what_engines_do_not_take_is_to_be_merged(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="merge it first"):
        lora_rank(adapter(tmp_path / "adapter", **config))


def test_an_engine_has_room_for_the_next_rank_that_it_knows() -> None:
    assert [engine_rank(rank) for rank in (1, 4, 8, 9, 512)] == [1, 8, 8, 16, 512]
    with pytest.raises(ValueError, match="beyond 512"):
        engine_rank(513)


def test_the_layers_are_those_that_have_weights(tmp_path: Path) -> None:
    folder, prefix = adapter(tmp_path / "adapter"), "base_model.model.model.layers.0"
    names = [f"{prefix}.self_attn.{x}_proj.lora_{y}.weight" for x in "qv" for y in "AB"]
    save(folder, names)
    assert lora_layers(folder) == ("q_proj", "v_proj")
    save(folder, [*names, "base_model.model.lm_head.lora_A.weight"])
    with pytest.raises(UserError, match="changes lm_head"):
        lora_layers(folder)


def save(folder: Path, names: list[str]) -> None:
    header = json.dumps({name: {} for name in names}).encode()
    content = len(header).to_bytes(8, "little") + header
    (folder / "adapter_model.safetensors").write_bytes(content)
