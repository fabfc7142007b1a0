"""The policy losses against TRL's own: value, gradient and what is logged, on random batches.

TRL computes its loss in a method of the trainer. It is called here on an object that has nothing of
a trainer but the settings that the method reads, with the log-probabilities given.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import MethodType, SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from jobs.spec.algorithm import AlgorithmSpec, CorrectionMode, LossType
from workloads.grpo.loss import PolicyBatch, PolicyLoss, Totals, entropy_threshold, policy_loss

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

TOLERANCE = 1e-5
MODES: tuple[CorrectionMode | None, ...] = (None, *get_args(CorrectionMode))
SETTINGS = list(itertools.product((None, 1.5), (0.0, 0.04), MODES, (1.0, 0.3), (None, 0.28)))
DRAWS = 11
"""Batches for each of the 80 settings, of each of 6 loss types and 2 levels: 10,560 in all."""

TrlLoss = Callable[[Any, None, dict[str, Tensor]], Tensor]


@pytest.fixture(scope="module")
def trainer() -> Iterator[Any]:
    """TRL's trainer class."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # TRL warns of a vLLM that is newer than itself, and its other imports of other things.
        warnings.simplefilter("ignore")
        from trl.trainer.grpo_trainer import GRPOTrainer
    yield GRPOTrainer
    torch.set_num_threads(threads)


def one_process() -> SimpleNamespace:
    """What TRL asks of accelerate, where there is a single process."""
    return SimpleNamespace(
        num_processes=1,
        sync_gradients=True,
        gather=lambda values: values,
        reduce=lambda values, reduction: values,
        pad_across_processes=lambda values, dim, pad_index: values,
    )


def settings(trainer: Any, algorithm: AlgorithmSpec, batch: PolicyBatch, longest: int) -> Any:
    """The algorithm in TRL's words, with the batch's log-probabilities in place of a model's."""
    high = algorithm.epsilon if algorithm.epsilon_high is None else algorithm.epsilon_high
    stub = SimpleNamespace(
        accelerator=one_process(),
        model=SimpleNamespace(training=True),
        loss_type=algorithm.loss_type,
        importance_sampling_level=algorithm.importance_sampling_level,
        epsilon_low=algorithm.epsilon,
        epsilon_high=high,
        beta=algorithm.beta,
        top_entropy_quantile=algorithm.top_entropy_quantile,
        use_vllm=algorithm.rollout_importance_sampling_mode is not None,
        vllm_importance_sampling_correction=True,
        off_policy_mask_threshold=None,
        max_completion_length=longest,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (batch.logp, batch.entropy, None),
        args=SimpleNamespace(
            delta=algorithm.delta,
            use_bias_correction_kl=False,
            sapo_temperature_pos=algorithm.sapo_temperature_pos,
            sapo_temperature_neg=algorithm.sapo_temperature_neg,
            steps_per_generation=1,
        ),
    )
    stub.get_high_entropy_mask = MethodType(trainer.get_high_entropy_mask, stub)
    return stub


def engine_correction(batch: PolicyBatch, algorithm: AlgorithmSpec) -> Tensor:
    """TRL's importance sampling ratio, a number at a time, as its documentation has it."""
    mode = algorithm.rollout_importance_sampling_mode
    assert mode is not None
    assert batch.sampler_logp is not None
    cap = algorithm.rollout_importance_sampling_threshold
    rows: list[list[float]] = []
    for old, sampler, learned in zip(
        batch.old_logp.tolist(), batch.sampler_logp.tolist(), batch.mask.tolist(), strict=True
    ):
        tokens = [
            o - s if m and not math.isnan(s) else 0.0
            for o, s, m in zip(old, sampler, learned, strict=True)
        ]
        logs = [sum(tokens)] if mode in ("sequence_mask", "sequence_truncate") else tokens
        ratios = [math.exp(log) for log in logs]
        if mode in ("token_truncate", "sequence_truncate"):
            rows.append([min(ratio, cap) for ratio in ratios])
        else:
            rows.append([0.0 if ratio > cap else ratio for ratio in ratios])
    return torch.tensor(rows)


def trl_loss(
    trainer: Any, batch: PolicyBatch, algorithm: AlgorithmSpec, longest: int
) -> tuple[Tensor, dict[str, float]]:
    """TRL's loss of the batch, and what it logs."""
    stub = settings(trainer, algorithm, batch, longest)
    completion = torch.ones_like(batch.mask)
    tokens: dict[str, Any] = {
        "prompt_ids": completion[:, :1],
        "prompt_mask": completion[:, :1],
        "completion_ids": completion,
        "completion_mask": completion,
        "tool_mask": batch.mask,
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old_logp,
        "ref_per_token_logps": batch.ref_logp,
        "num_items_in_batch": batch.mask.sum(),
    }
    if stub.use_vllm:
        tokens["importance_sampling_ratio"] = engine_correction(batch, algorithm)
    loss = trainer._compute_loss(stub, None, tokens)
    return loss, {name: values[0] for name, values in stub._metrics["train"].items()}


def random_batch(draw: random.Random) -> PolicyBatch:
    """One to six completions of up to nine tokens: some fully masked, some of a single token."""
    rows, length = draw.randint(1, 6), draw.randint(1, 9)
    generator = torch.Generator().manual_seed(draw.getrandbits(40))

    def near(center: Tensor, spread: float) -> Tensor:
        return center + spread * torch.randn(rows, length, generator=generator)

    old = -3 * torch.rand(rows, length, generator=generator)
    lengths = [draw.choice((0, 1, length, draw.randint(1, length))) for _ in range(rows)]
    mask = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
    if draw.random() < 0.5:  # an environment's tokens in between
        mask &= torch.rand(rows, length, generator=generator) > 0.2
    sampler = near(old, 0.5)
    sampler[torch.rand(rows, length, generator=generator) < 0.05] = math.nan
    return PolicyBatch(
        logp=near(old, draw.choice((0.0, 0.05, 0.4))).requires_grad_(),
        old_logp=old,
        ref_logp=near(old, 0.3),
        sampler_logp=sampler,
        advantages=torch.randn(rows, generator=generator) * draw.choice((0.0, 1.0, 1.0)),
        mask=mask.long(),
        entropy=3 * torch.rand(rows, length, generator=generator),
    )


def our_loss(batch: PolicyBatch, algorithm: AlgorithmSpec, longest: int) -> PolicyLoss:
    """Ours, where the batch is the whole of the step."""
    totals = Totals(len(batch.mask), int(batch.mask.sum()), longest)
    assert batch.entropy is not None
    learned = batch.entropy[batch.mask.bool()]
    threshold = entropy_threshold(learned, algorithm.top_entropy_quantile)
    return policy_loss(batch, algorithm, totals, threshold)


def differences(ours: PolicyLoss, theirs: Tensor, logp: Tensor) -> tuple[float, float]:
    """Of the losses, and the largest of the gradients."""
    (our_gradient,) = torch.autograd.grad(ours.loss, logp)
    (their_gradient,) = torch.autograd.grad(theirs, logp)
    loss = (ours.loss - theirs).abs().item()
    return loss, (our_gradient - their_gradient).abs().max().item()


def logged(ours: PolicyLoss, tokens: int, algorithm: AlgorithmSpec) -> dict[str, float]:
    """Our sums as TRL's metrics."""
    ratios, found = max(int(ours.ratios), 1), {}
    if algorithm.beta:
        found["kl"] = float(ours.kl_sum) / max(tokens, 1)
    if algorithm.loss_type == "cispo":
        found["cispo_clip_ratio"] = int(ours.clip_high) / ratios
    elif algorithm.loss_type != "sapo":
        found["clip_ratio/low_mean"] = int(ours.clip_low) / ratios
        found["clip_ratio/high_mean"] = int(ours.clip_high) / ratios
        found["clip_ratio/region_mean"] = int(ours.clip) / ratios
    return found


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_losses_are_trl_s(trainer: Any, loss_type: LossType, level: str) -> None:
    draw = random.Random(f"{loss_type} {level}")
    for delta, beta, mode, share, high in SETTINGS:
        algorithm = AlgorithmSpec(
            loss_type=loss_type,
            importance_sampling_level=level,
            delta=delta,
            beta=beta,
            epsilon_high=(high or 1.1) if loss_type == "cispo" else high,
            top_entropy_quantile=share,
            rollout_importance_sampling_mode=mode,
            rollout_importance_sampling_threshold=draw.choice((1.2, 2.0, 3.0)),
        )
        for _ in range(DRAWS):
            batch, longest = random_batch(draw), draw.randint(9, 16)
            ours = our_loss(batch, algorithm, longest)
            theirs, metrics = trl_loss(trainer, batch, algorithm, longest)
            assert max(differences(ours, theirs, batch.logp)) < TOLERANCE, (algorithm, batch)
            if batch.mask.shape[1] == 1:
                continue  # which TRL's metrics take for one value to a completion
            found = logged(ours, int(batch.mask.sum()), algorithm)
            assert found == pytest.approx({name: metrics[name] for name in found}, abs=TOLERANCE)
