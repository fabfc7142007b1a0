"""Quantized weights: they load, take less, and compute nearly the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.spec.export import QuantizeMethod, QuantizeSpec
from workloads.export.fidelity import compare
from workloads.export.quantize import quantize
from workloads.export.report import Fidelity

if TYPE_CHECKING:
    from tests.conftest import SaveLlama

NOT_OURS = [
    # Raised inside the libraries when they pack weights.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
pytestmark = NOT_OURS
SHARD_BYTES = 10**9


@pytest.fixture(scope="module")
def model(
    tiny_model: Path, save_llama: SaveLlama, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small model whose layers have rows of whole blocks, in bfloat16."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    save_llama(folder, tokenizer, hidden_size=128, num_key_value_heads=2)
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    weights.save_pretrained(folder)
    return folder


def quantized(model: Path, target: Path, method: QuantizeMethod, **fields: object) -> Fidelity:
    """How close the quantized model, saved to `target`, is to the model."""
    spec = QuantizeSpec.model_validate({"method": method, **fields})
    quantize(model, target, spec, SHARD_BYTES)
    AutoTokenizer.from_pretrained(model).save_pretrained(target)
    return compare(model, target)


def stored(folder: Path) -> dict[str, torch.dtype]:
    """The dtype of each stored tensor."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("method", "dtype", "agreement"),
    [("int8", torch.int8, 0.95), ("fp8", torch.float8_e4m3fn, 0.9), ("bnb", torch.uint8, 0.7)],
)
def test_a_quantized_model_loads_and_is_close(
    model: Path, tmp_path: Path, method: QuantizeMethod, dtype: torch.dtype, agreement: float
) -> None:
    if method == "bnb":
        pytest.importorskip("bitsandbytes")
    found = quantized(model, tmp_path, method)
    assert found.top1_agreement > agreement
    assert abs(found.perplexity_increase) < 0.1
    assert 0 < found.mean_logit_difference <= found.max_logit_difference
    types = stored(tmp_path)
    layers = [name for name in types if name.endswith("proj.weight")]
    assert len(layers) == 3 * 7
    assert {types[name] for name in layers} == {dtype}
    assert "quantization_config" in json.loads((tmp_path / "config.json").read_text())


def test_ignored_layers_keep_their_precision(model: Path, tmp_path: Path) -> None:
    quantized(model, tmp_path, "int8", ignore=["lm_head", "re:.*down_proj"])
    types = stored(tmp_path)
    assert types["model.layers.0.mlp.down_proj.weight"] == torch.bfloat16
    assert types["model.layers.0.mlp.up_proj.weight"] == torch.int8


def test_a_model_is_equal_to_itself(model: Path) -> None:
    found = compare(model, model)
    assert (found.perplexity, found.top1_agreement) == (found.full_perplexity, 1)
    assert found.max_logit_difference == 0
