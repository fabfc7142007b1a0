"""The objective equals plain cross-entropy over all logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from workloads.train.batches import IGNORED, MicroBatch, Row, micro_batches
from workloads.train.objectives import load_objective

PAD = 2


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def _batch(*lengths: int) -> MicroBatch:
    numbers = np.random.default_rng(lengths)
    rows = []
    for position, length in enumerate(lengths):
        ids = numbers.integers(3, 300, length, dtype=np.int32)
        learned = numbers.random(length) < 0.5
        if length:
            learned[:2] = [False, True]
        rows.append(Row(position, ids, learned))
    (batch,) = micro_batches(rows, len(rows), PAD)
    return batch


def _plain(model: nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, int]:
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    targets = batch.labels[:, 1:]
    loss = cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, int(((logits.argmax(-1) == targets) & (targets != IGNORED)).sum())


def _gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("lengths", [(12, 12, 12), (17, 9, 4), (11, 0), (6,)])
def test_it_is_cross_entropy_with_its_gradients(model: nn.Module, lengths: tuple[int]) -> None:
    batch = _batch(*lengths)
    result, (loss, correct) = load_objective("sft")(model, batch), _plain(model, batch)
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert int(result.correct) == correct
    for ours, plain in zip(_gradients(model, result.loss), _gradients(model, loss), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


def test_right_guesses_are_counted(model: nn.Module) -> None:
    batch = _batch(8, 8)
    with torch.no_grad():
        guesses = model(input_ids=batch.input_ids).logits.argmax(-1)
    batch.labels[:, 1:] = guesses[:, :-1]
    assert int(load_objective("sft")(model, batch).correct) == 14


def test_rows_add_up_however_they_are_spread(model: nn.Module) -> None:
    batch = _batch(17, 9, 4)
    assert batch.attention_mask is not None
    parts = []
    for index in range(3):
        size = int(batch.attention_mask[index].sum())
        part = MicroBatch(
            batch.input_ids[index : index + 1, :size], None,
            batch.labels[index : index + 1, :size], (index,), size,
        )  # fmt: skip
        parts.append(load_objective("sft")(model, part).loss.item())
    assert load_objective("sft")(model, batch).loss.item() == pytest.approx(sum(parts), rel=1e-5)


def test_only_filling_has_no_loss_and_a_gradient(model: nn.Module) -> None:
    result = load_objective("sft")(model, _batch(0, 0))
    assert (result.loss.item(), int(result.correct)) == (0.0, 0)
    assert all(bool((gradient == 0).all()) for gradient in _gradients(model, result.loss))
