"""The shape of a model, read from its folder."""

import json
from pathlib import Path

import pytest

from jobs.plan.memory import ModelShape
from workloads.models.resolve import ModelSource
from workloads.models.shape import shape_of


def test_it_is_that_of_the_model(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert shape_of(ModelSource("folder", str(tiny_model))) == ModelShape(
        parameters=model.num_parameters(), hidden=96, layers=3, intermediate=256, heads=4,
        kv_heads=2, head_size=24, vocabulary=384,
    )  # fmt: skip


@pytest.mark.parametrize("config", ["[]", "{", "{}", json.dumps({"num_attention_heads": "many"})])
def test_what_is_no_decoder_has_none(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert shape_of(ModelSource("folder", str(tmp_path))) is None


def test_weights_that_are_none_have_none(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    source = ModelSource("folder", str(tmp_path))
    assert shape_of(source) is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert shape_of(source) is None


def test_what_is_not_on_this_machine_is_not_known() -> None:
    assert shape_of(ModelSource("hub", "org/name")) is None
