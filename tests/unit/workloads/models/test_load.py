"""What is trained of a model."""

from pathlib import Path

import pytest
import torch

from jobs.errors import UserError
from jobs.spec.tuner import FullSpec, LoraSpec
from workloads.models.load import attach_tuner, load_model


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_an_adapter_s_weights_follow_from_the_seed(tiny_model: Path) -> None:
    def adapter(seed: int) -> dict[str, torch.Tensor]:
        model = attach_tuner(load_model(str(tiny_model), torch.bfloat16), LoraSpec(rank=2), seed)
        return _trained(model)

    first, again, other = adapter(1), adapter(1), adapter(2)
    assert len(first) == 3 * 7 * 2
    assert all("lora_" in name and p.dtype is torch.bfloat16 for name, p in first.items())
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in first.items())


def test_full_training_trains_every_weight(tiny_model: Path) -> None:
    model = attach_tuner(load_model(str(tiny_model), torch.float32), FullSpec(type="full"), 1)
    assert len(_trained(model)) == len(list(model.parameters()))


def test_a_layer_that_is_not_there_is_told_with_those_that_are(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), torch.float32)
    with pytest.raises(UserError, match="does not fit the model") as caught:
        attach_tuner(model, LoraSpec(target_modules=("attn",)), 1)
    assert "q_proj" in (caught.value.remedy or "")
