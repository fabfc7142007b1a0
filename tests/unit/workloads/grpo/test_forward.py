"""Padding and batching leave log-probabilities as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from workloads.grpo.forward import Costs, micro_batches, text_logps, token_logps
from workloads.grpo.samples import TrainRow
from workloads.models.load import load_model


def _row(key: int, prompt: list[int], tokens: list[int], learned: list[bool] | None = None) -> Any:
    return TrainRow(
        key=key,
        prompt_ids=prompt,
        token_ids=tokens,
        learned=learned or [True] * len(tokens),
        logprobs=[-0.1 * (key + 1)] * len(tokens),
        advantage=float(key),
        counts=True,
    )


ROWS = [
    _row(0, [5, 6, 7], [8, 9]),
    _row(1, [5, 6, 7, 8, 9, 10], [11]),
    _row(2, [4], [12, 13, 14, 15, 16], [True, False, False, True, True]),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return load_model(str(tiny_model), torch.float32).eval()


def test_padded_rows_score_as_they_do_alone(model: Any) -> None:
    (batch,) = micro_batches(ROWS, 3, pad_id=0)
    logp, entropy = token_logps(model, batch, temperature=0.7)
    for place, index in enumerate(batch.rows):
        row = ROWS[index]
        ids = torch.tensor([row.prompt_ids + row.token_ids])
        logits = model(input_ids=ids).logits[0].float() / 0.7
        all_logps = torch.log_softmax(logits, -1)
        for step, token in enumerate(row.token_ids):
            at = len(row.prompt_ids) + step - 1
            learned = row.learned[step]
            expected = all_logps[at, token] if learned else torch.tensor(0.0)
            spread = -(all_logps[at].exp() * all_logps[at]).sum() if learned else torch.tensor(0.0)
            torch.testing.assert_close(logp[place, step], expected, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(entropy[place, step], spread, atol=2e-5, rtol=1e-4)


SHARING = Costs(token=1e6, pair=1.0, can_share=True)


def _group(first: int, prompt: list[int], completions: list[list[int]]) -> list[Any]:
    return [_row(first + i, prompt, tokens) for i, tokens in enumerate(completions)]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_completions_that_share_a_prompt_score_as_they_do_alone(model: Any, size: int) -> None:
    rows = [
        *_group(0, [5, 6, 7, 8], [[9, 10, 11], [12], [13, 14]]),
        *_group(3, [20, 21], [[22, 23], [24, 25, 26, 27]]),
        *ROWS[1:],
    ]
    alone = micro_batches(rows, size, pad_id=0)
    together = micro_batches(rows, size, pad_id=0, costs=SHARING)
    assert len(together) == len(alone)
    assert sum(len(b.input_ids) for b in together) < sum(len(b.input_ids) for b in alone)

    def scores(batches: Any) -> tuple[dict[int, Any], list[Any]]:
        found, total = {}, 0.0
        for batch in batches:
            logp, entropy = token_logps(model, batch, temperature=0.9)
            total = total + (logp * batch.advantages[:, None]).sum()
            for place, index in enumerate(batch.rows):
                length = len(rows[index].token_ids)
                found[index] = torch.stack([logp[place, :length], entropy[place, :length]])
        return found, list(torch.autograd.grad(total, list(model.parameters())))

    (expected, gradients), (found, shared_gradients) = scores(alone), scores(together)
    for index in range(len(rows)):
        torch.testing.assert_close(found[index], expected[index], atol=2e-5, rtol=1e-4)
    for mine, theirs in zip(shared_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-5, rtol=1e-3)


def test_prompts_are_shared_only_where_that_is_cheaper() -> None:
    rows = _group(0, [5], [[9] * 40, [10] * 40])
    costly_attention = Costs(token=1.0, pair=1e3, can_share=True)
    (batch,) = micro_batches(rows, 2, pad_id=0, costs=costly_attention)
    assert len(batch.input_ids) == 2
    (batch,) = micro_batches(rows, 2, pad_id=0, costs=SHARING)
    assert len(batch.input_ids) == 1
    unable = Costs(token=1e6, pair=1.0, can_share=False)
    (batch,) = micro_batches(rows, 2, pad_id=0, costs=unable)
    assert len(batch.input_ids) == 2


def test_the_costs_of_a_model(model: Any) -> None:
    costs = Costs.of(model)
    weights = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    assert costs.token == 2 * (weights - embedding)
    assert costs.pair == 4 * 96 * 3
    assert costs.can_share


def test_gradients_flow_to_learned_tokens_alone(model: Any) -> None:
    (batch,) = micro_batches([ROWS[2]], 1, pad_id=0)
    logp, entropy = token_logps(model, batch, temperature=1.0)
    assert logp.requires_grad
    assert not entropy.requires_grad
    (gradient,) = torch.autograd.grad(logp.sum(), logp)
    assert gradient.shape == (1, 5)


def test_rows_of_like_length_go_together_and_keep_their_places() -> None:
    batches = micro_batches(ROWS, 2, pad_id=0)
    assert [batch.rows for batch in batches] == [(2, 0), (1,)]
    assert [batch.keys for batch in batches] == [(2, 0), (1,)]
    assert batches[0].advantages.tolist() == [2.0, 0.0]
    torch.testing.assert_close(batches[0].sampler_logp[1, :2], torch.tensor([-0.1, -0.1]))


def test_a_text_scores_as_its_tokens(model: Any) -> None:
    ids = [3, 4, 5, 6]
    logits = model(input_ids=torch.tensor([ids])).logits[0].detach()
    logps = torch.log_softmax(logits.float(), -1)
    expected = [float(logps[i, ids[i + 1]]) for i in range(3)]
    assert text_logps(model, ids, "cpu") == pytest.approx(expected, abs=1e-5)
