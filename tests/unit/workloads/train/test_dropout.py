"""A row's dropout mask follows from seed, layer and row, and from nothing else."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from workloads.train.dropout import RowDropout, RowKeys, use_row_dropout

FEATURES = 10


def _dropped(
    positions: list[int],
    length: int = 6,
    seed: int = 42,
    share: float = 0.5,
    features: int = FEATURES,
) -> Tensor:
    dropout = RowDropout(share, seed, RowKeys(positions))
    return dropout(torch.ones(len(positions), length, features))


def test_a_row_has_the_same_mask_in_whichever_batch() -> None:
    together, alone = _dropped([3, 7, 5]), _dropped([7])
    assert torch.equal(together[1], alone[0])
    assert torch.equal(_dropped([3, 7, 5]), together)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("length", [1, 7, 64])
def test_padding_does_not_change_a_row_s_mask(length: int) -> None:
    short, padded = _dropped([7], length), _dropped([7, 8], 100)
    assert torch.equal(padded[0, :length], short[0])


def test_another_seed_is_another_mask() -> None:
    assert not torch.equal(_dropped([7], seed=1), _dropped([7], seed=2))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_the_share_is_right_and_the_rest_is_scaled_up(share: float) -> None:
    dropped = _dropped(list(range(8)), 250, share=share, features=100)
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert torch.equal(dropped.unique(), torch.tensor([0, 1 / (1 - share)]))


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.ones(1, 4, FEATURES)
    assert RowDropout(0.5, 42, RowKeys([0])).eval()(x) is x


def test_precision_is_kept() -> None:
    dropout = RowDropout(0.5, 42, RowKeys([0]))
    half = dropout(torch.ones(1, 4, FEATURES, dtype=torch.bfloat16))
    assert half.dtype is torch.bfloat16
    assert torch.equal(half.float(), _dropped([0], 4))


@pytest.fixture
def adapted(tiny_model: Path) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", lora_dropout=0.5)
    return get_peft_model(model, config)


def test_each_layer_of_a_model_drops_in_its_own_way(adapted: torch.nn.Module) -> None:
    rows = use_row_dropout(adapted, 0.5, 42)
    rows.positions = [7]
    layers = [module for module in adapted.modules() if isinstance(module, RowDropout)]
    assert len(layers) == 3 * 7
    masks = [layer(torch.ones(1, 8, FEATURES)).flatten().tolist() for layer in layers]
    assert len({tuple(mask) for mask in masks}) == len(masks)


def test_without_dropout_a_model_is_left_as_it_is(adapted: torch.nn.Module) -> None:
    use_row_dropout(adapted, 0.0, 42)
    assert not any(isinstance(module, RowDropout) for module in adapted.modules())


def test_a_training_pass_is_repeatable_row_by_row(adapted: torch.nn.Module) -> None:
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    rows = use_row_dropout(adapted, 0.5, 42)
    adapted.train()
    ids = torch.randint(0, 300, (2, 9))
    with torch.no_grad():
        rows.positions = [4, 9]
        both = adapted(input_ids=ids).logits
        rows.positions = [9]
        second = adapted(input_ids=ids[1:]).logits
        rows.positions = [8]
        other = adapted(input_ids=ids[1:]).logits
    assert torch.allclose(both[1], second[0], atol=1e-4)
    assert not torch.allclose(other, second, atol=1e-2)
