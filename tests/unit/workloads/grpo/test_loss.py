"""The policy losses by hand; `tests/integration/test_grpo_oracle.py` checks them against TRL."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from jobs.spec.algorithm import AlgorithmSpec, CorrectionMode, LossType
from workloads.grpo.loss import (
    PolicyBatch,
    PolicyLoss,
    Totals,
    correction,
    entropy_threshold,
    policy_loss,
)

NAN = math.nan
PLAIN: dict[str, Any] = {"beta": 0.0, "rollout_importance_sampling_mode": None}


def spec(**fields: Any) -> AlgorithmSpec:
    """An algorithm with no KL divergence and no correction unless said."""
    return AlgorithmSpec(**(PLAIN | fields))


def batch(
    ratios: list[list[float]], advantages: list[float], mask: list[list[int]] | None = None
) -> PolicyBatch:
    """Completions whose tokens were likelier or unlikelier by these ratios."""
    ratio = torch.tensor(ratios)
    return PolicyBatch(
        logp=(ratio.log() - 2).requires_grad_(),
        old_logp=torch.full_like(ratio, -2.0),
        ref_logp=None,
        sampler_logp=None,
        advantages=torch.tensor(advantages),
        mask=torch.ones_like(ratio) if mask is None else torch.tensor(mask),
        entropy=None,
    )


def totals(part: PolicyBatch, max_completion_length: int = 10) -> Totals:
    """Of a global batch that is this micro-batch."""
    return Totals(len(part.mask), int(part.mask.sum()), max_completion_length)


def loss_and_gradient(part: PolicyBatch, algorithm: AlgorithmSpec) -> tuple[float, list[Any]]:
    result = policy_loss(part, algorithm, totals(part))
    (gradient,) = torch.autograd.grad(result.loss, part.logp)
    return result.loss.item(), gradient.tolist()


@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "loss", "slope"),
    [
        (1.0, 2.0, None, -2.0, -2.0),
        (1.1, 1.0, None, -1.1, -1.1),
        (1.5, 1.0, None, -1.3, 0.0),  # too high for what is good
        (0.5, 1.0, None, -0.5, -0.5),
        (0.5, -1.0, None, 0.8, 0.0),  # too low for what is bad
        (2.5, -1.0, None, 2.5, 2.5),
        (2.5, -1.0, 2.0, 2.0, 0.0),  # two-sided
        (1.5, 0.0, None, 0.0, 0.0),
    ],
)
def test_a_token_is_clipped_where_it_went_far_enough(
    ratio: float, advantage: float, delta: float | None, loss: float, slope: float
) -> None:
    algorithm = spec(epsilon=0.2, epsilon_high=0.3, delta=delta)
    found, ((gradient,),) = loss_and_gradient(batch([[ratio]], [advantage]), algorithm)
    assert found == pytest.approx(loss)
    assert gradient == pytest.approx(slope)


def test_the_upper_bound_is_the_lower_one_s_where_none_is_given() -> None:
    assert loss_and_gradient(batch([[1.5]], [1.0]), spec())[0] == pytest.approx(-1.2)


def test_cispo_weighs_log_probabilities() -> None:
    algorithm = spec(loss_type="cispo", epsilon_high=1.5)
    loss, gradient = loss_and_gradient(batch([[3.0, 0.5]], [2.0]), algorithm)
    logp = [math.log(3.0) - 2, math.log(0.5) - 2]
    assert loss == pytest.approx(-(1.5 * logp[0] + 0.5 * logp[1]) * 2.0 / 2)
    assert gradient == [pytest.approx([-1.5, -0.5])]


@pytest.mark.parametrize(("advantage", "temperature"), [(1.0, 0.5), (-1.0, 2.0)])
def test_sapo_has_a_temperature_for_each_sign(advantage: float, temperature: float) -> None:
    algorithm = spec(loss_type="sapo", sapo_temperature_pos=0.5, sapo_temperature_neg=2.0)
    loss, ((gradient,),) = loss_and_gradient(batch([[1.5]], [advantage]), algorithm)
    gate = 1 / (1 + math.exp(-temperature * 0.5))
    assert loss == pytest.approx(-4 / temperature * gate * advantage)
    assert gradient == pytest.approx(-4 * gate * (1 - gate) * 1.5 * advantage)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", -(1.0 + 4.0) / 2),
        ("bnpo", -(1.0 + 3 * 4.0) / 4),
        ("dapo", -(1.0 + 3 * 4.0) / 4),
        ("dr_grpo", -(1.0 + 3 * 4.0) / 20),
    ],
)
def test_tokens_are_averaged_as_the_loss_type_says(loss_type: LossType, expected: float) -> None:
    part = batch([[1.0] * 3, [1.0] * 3], [1.0, 4.0], [[1, 0, 0], [1, 1, 1]])
    assert loss_and_gradient(part, spec(loss_type=loss_type))[0] == pytest.approx(expected)


def test_a_ratio_of_a_completion_is_the_geometric_mean_of_its_tokens() -> None:
    part = batch([[2.0, 8.0, 100.0]], [-1.0], [[1, 1, 0]])
    algorithm = spec(importance_sampling_level="sequence")
    loss, gradient = loss_and_gradient(part, algorithm)
    assert loss == pytest.approx(4.0)
    assert gradient == [pytest.approx([2.0, 2.0, 0.0])]


def test_the_divergence_is_added_whatever_the_advantage() -> None:
    part = replace(batch([[1.0, 1.0]], [0.0]), ref_logp=torch.tensor([[-1.0, -2.0]]))
    result = policy_loss(part, spec(beta=0.1), totals(part))
    assert float(result.kl_sum) == pytest.approx(math.e - 2)
    assert result.loss.item() == pytest.approx(0.1 * (math.e - 2) / 2)
    (gradient,) = torch.autograd.grad(result.loss, part.logp)
    assert gradient.tolist() == [pytest.approx([0.05 * (1 - math.e), 0.0])]


def test_the_divergence_is_neither_corrected_nor_masked_by_entropy() -> None:
    ratio = [[1.0, 1.0]]
    part = replace(
        batch(ratio, [1.0]),
        ref_logp=torch.tensor([[-1.0, -1.0]]),
        sampler_logp=torch.tensor([[-2.0, -2.0 - math.log(3.0)]]),
        entropy=torch.tensor([[0.1, 0.9]]),
    )
    algorithm = spec(
        loss_type="dapo",
        beta=1.0,
        top_entropy_quantile=0.5,
        rollout_importance_sampling_mode="token_truncate",
    )
    loss = policy_loss(part, algorithm, totals(part), entropy_threshold=0.5).loss
    assert loss.item() == pytest.approx((-2.0 + 2 * (math.e - 2)) / 2)


@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_without_advantages_only_the_divergence_has_a_gradient(loss_type: LossType) -> None:
    part = replace(batch([[1.3, 0.6], [2.0, 1.0]], [0.0, 0.0]), ref_logp=torch.full((2, 2), -1.0))
    gradients = []
    for beta in (0.0, 0.3):
        result = policy_loss(
            part, spec(loss_type=loss_type, beta=beta, epsilon_high=2.0), totals(part)
        )
        gradients.append(torch.autograd.grad(result.loss, part.logp)[0])
    assert not gradients[0].any()
    count = 20 if loss_type == "dr_grpo" else 4
    expected = 0.3 * (1 - (-1.0 - part.logp.detach()).exp()) / count
    torch.testing.assert_close(gradients[1], expected)


DIFFERENCES = torch.tensor([[0.5, 1.0, NAN, 9.0], [-0.5, -0.5, 0.0, 9.0]])
LEARNED = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_truncate", [[0.5, 2.0, 0.0, 0.0], [-0.5, -0.5, 0.0, 0.0]]),
        ("token_mask", [[0.5, None, 0.0, 0.0], [-0.5, -0.5, 0.0, 0.0]]),
        ("sequence_truncate", [[2.0], [-1.0]]),
        ("sequence_mask", [[None], [-1.0]]),
    ],
)
def test_a_correction_is_limited(mode: CorrectionMode, expected: list[list[float | None]]) -> None:
    old = torch.full((2, 4), -3.0)
    found = correction(old, old - DIFFERENCES, LEARNED, mode, 2.0)
    # `expected` has logarithms, None for a factor of 0 and 2.0 for the threshold itself.
    factors = [
        [0.0 if e is None else 2.0 if e == 2.0 else math.exp(e) for e in row] for row in expected
    ]
    torch.testing.assert_close(found, torch.tensor(factors))


@pytest.mark.parametrize(
    ("mode", "factors", "beyond"),
    [
        ("token_truncate", [math.exp(0.5), 2.0, 1.0, math.exp(-0.5), math.exp(-0.5), 1.0], 1),
        ("token_mask", [math.exp(0.5), 0.0, 1.0, math.exp(-0.5), math.exp(-0.5), 1.0], 1),
        ("sequence_truncate", [2.0] * 3 + [math.exp(-1)] * 3, 3),
        ("sequence_mask", [0.0] * 3 + [math.exp(-1)] * 3, 3),
        (None, [1.0] * 6, 0),
    ],
)
def test_a_correction_weighs_tokens_and_is_told(
    mode: CorrectionMode | None, factors: list[float], beyond: int
) -> None:
    part = batch([[1.0] * 4] * 2, [1.0, 1.0], LEARNED.tolist())
    part = replace(part, sampler_logp=part.old_logp - DIFFERENCES)
    algorithm = spec(loss_type="dapo", rollout_importance_sampling_mode=mode)
    result = policy_loss(part, algorithm, totals(part))
    assert result.loss.item() == pytest.approx(-sum(factors) / 6)
    assert float(result.correction_sum) == pytest.approx(sum(factors))
    assert float(result.correction_min) == pytest.approx(min(factors))
    assert float(result.correction_max) == pytest.approx(max(factors))
    assert int(result.beyond_threshold) == beyond
    assert float(result.kl_sum) == 0.0


def test_the_threshold_is_the_entropy_that_a_share_of_tokens_reaches() -> None:
    entropies = torch.arange(11.0)[torch.randperm(11)]
    assert float(entropy_threshold(entropies, 0.3)) == 7.0
    assert float(entropy_threshold(entropies, 1.0)) == 0.0
    assert float(entropy_threshold(entropies[:0], 0.3)) == math.inf


def test_the_threshold_is_found_among_more_tokens_than_torch_can_sort_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workloads.grpo.loss._QUANTILE_LIMIT", 5)
    # Of 0 to 8 every second is looked at.
    assert float(entropy_threshold(torch.arange(9.0), 0.25)) == 6.0


def test_only_tokens_of_high_entropy_are_learned() -> None:
    part = replace(batch([[1.0] * 3], [1.0], [[1, 1, 0]]), entropy=torch.tensor([[0.1, 0.5, 0.9]]))
    result = policy_loss(part, spec(top_entropy_quantile=0.5), totals(part), 0.5)
    (gradient,) = torch.autograd.grad(result.loss, part.logp)
    assert gradient.tolist() == [[0.0, -0.5, 0.0]]


def counts(result: PolicyLoss) -> list[int]:
    return [int(n) for n in (result.ratios, result.clip_low, result.clip_high, result.clip)]


def test_clipped_ratios_are_counted_where_they_cost_the_gradient() -> None:
    part = batch(
        [[0.8, 1.0, 2.3, 9.0], [0.5, 0.5, 1.5, 1.0]], [1.0, -1.0], [[1, 1, 1, 0], [1, 1, 1, 1]]
    )
    assert counts(policy_loss(part, spec(), totals(part))) == [7, 2, 1, 3]
    by_completion = spec(importance_sampling_level="sequence")
    assert counts(policy_loss(part, by_completion, totals(part))) == [2, 1, 1, 2]
    cispo = spec(loss_type="cispo", epsilon_high=0.9)
    assert counts(policy_loss(part, cispo, totals(part))) == [7, 0, 2, 2]
    assert counts(policy_loss(part, spec(loss_type="sapo"), totals(part))) == [7, 0, 0, 0]


def random_batch(rows: int, length: int, seed: int) -> PolicyBatch:
    """Completions of 0 to `length` tokens, with all that any algorithm asks for."""
    draw = torch.Generator().manual_seed(seed)

    def near(center: Tensor, spread: float) -> Tensor:
        return center + spread * torch.randn(rows, length, generator=draw)

    old = -3 * torch.rand(rows, length, generator=draw)
    lengths = torch.randint(0, length + 1, (rows, 1), generator=draw)
    return PolicyBatch(
        logp=near(old, 0.4).requires_grad_(),
        old_logp=old,
        ref_logp=near(old, 0.3),
        sampler_logp=near(old, 0.5),
        advantages=torch.randn(rows, generator=draw),
        mask=torch.arange(length) < lengths,
        entropy=torch.rand(rows, length, generator=draw),
    )


def rows_of(whole: PolicyBatch, rows: list[int], width: int, filler: float) -> PolicyBatch:
    """Some of the rows, cut or padded to `width` tokens."""

    def resized(values: Tensor | None, empty: float = filler) -> Tensor:
        assert values is not None
        part = values[rows][:, :width]
        padding = part.new_full((len(rows), max(width - values.shape[1], 0)), empty)
        return torch.cat((part, padding), dim=1)

    return PolicyBatch(
        logp=resized(whole.logp),
        old_logp=resized(whole.old_logp),
        ref_logp=resized(whole.ref_logp),
        sampler_logp=resized(whole.sampler_logp),
        advantages=whole.advantages[rows],
        mask=resized(whole.mask, 0),
        entropy=resized(whole.entropy),
    )


@pytest.mark.parametrize("mode", get_args(CorrectionMode))
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_micro_batches_add_up_however_they_are_cut_and_padded(
    loss_type: LossType, level: str, mode: CorrectionMode
) -> None:
    algorithm = spec(
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=0.1,
        epsilon_high=0.5,
        top_entropy_quantile=0.6,
        rollout_importance_sampling_mode=mode,
    )
    for seed in range(5):
        whole = random_batch(7, 6, seed)
        counted = totals(whole)
        threshold = entropy_threshold(whole.entropy[whole.mask], 0.6)  # type: ignore[index]
        expected = policy_loss(whole, algorithm, counted, threshold)
        (gradient,) = torch.autograd.grad(expected.loss, whole.logp)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed)).tolist()
        parts = []
        for rows, filler in ((order[:1], 0.0), (order[1:5], NAN), (order[5:], -math.inf)):
            longest = max(int(whole.mask[rows].sum(1).max()), 1)
            part = rows_of(whole, rows, longest + len(rows) - 1, filler)
            parts.append(policy_loss(part, algorithm, counted, threshold))
        loss = sum((part.loss for part in parts), torch.zeros(()))
        torch.testing.assert_close(loss, expected.loss, atol=1e-6, rtol=1e-5)
        (found,) = torch.autograd.grad(loss, whole.logp)
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-5)
        for name in ("kl_sum", "ratios", "clip_low", "clip_high", "correction_sum",
                     "beyond_threshold"):  # fmt: skip
            summed = sum(float(getattr(part, name)) for part in parts)
            assert summed == pytest.approx(float(getattr(expected, name)), abs=1e-4), name
        assert min(float(p.correction_min) for p in parts) == float(expected.correction_min)
        assert max(float(p.correction_max) for p in parts) == float(expected.correction_max)


def test_a_micro_batch_with_nothing_to_learn_has_a_loss_of_zero_and_its_gradient() -> None:
    part = replace(random_batch(2, 3, 0), mask=torch.zeros(2, 3))
    algorithm = AlgorithmSpec(loss_type="bnpo", top_entropy_quantile=0.5)
    result = policy_loss(part, algorithm, totals(part), math.inf)
    (gradient,) = torch.autograd.grad(result.loss, part.logp)
    assert result.loss.item() == 0.0
    assert not gradient.any()
    assert float(result.correction_min) == math.inf
    assert float(result.correction_max) == -math.inf
