"""The policy losses of the GRPO family, for one micro-batch of a step.

A micro-batch's sums are divided by counts of the whole global batch, so that the parts of all
micro-batches and workers add up to the step's loss, however its rows are spread.

With r the ratio of the policy's probability to the one before this batch was trained on (of a
token, or the geometric mean over the completion), A the advantage and l the log-probability, a
token's loss is

    grpo, bnpo, dr_grpo, dapo   -min(min(r, delta) A, clip(r, 1 - epsilon, 1 + epsilon_high) A)
    cispo                       -min(r, epsilon_high) A l, with no gradient through r
    sapo                        -4/t sigmoid(t (r - 1)) A, t by the sign of A

times 1 where the token is among those of highest entropy and else 0, times the correction for what
the engine sampled from, plus beta times the k3 estimate of the KL divergence from the reference.

The formulas are those of TRL 1.16 with `use_bias_correction_kl` off. TRL divides bnpo by the tokens
of each micro-batch, here they are those of the global batch: the two are equal where a global batch
is one micro-batch. Sources: DeepSeekMath (grpo), arXiv 2503.20783 (dr_grpo), 2503.14476 (dapo),
2506.13585 (cispo), 2511.20347 (sapo), 2507.18071 (sequence level), 2505.07291 (delta), 2506.01939
(highest entropy).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jobs.spec.algorithm import AlgorithmSpec, CorrectionMode

_QUANTILE_LIMIT = 2**24
"""Values that torch.quantile takes at most."""


@dataclass(frozen=True)
class PolicyBatch:
    """Completions of one micro-batch, padded to the longest.

    What stands at masked places counts for nothing, be it NaN.
    """

    logp: Tensor
    """(B, T) float32 log-probabilities of the completions' tokens under the policy; gradients flow
    to it."""
    old_logp: Tensor
    """(B, T) under the policy before this generation batch was trained on; detached."""
    ref_logp: Tensor | None
    """(B, T) under the reference model; None where beta is 0."""
    sampler_logp: Tensor | None
    """(B, T) as the engine said, NaN where it said nothing; None where nothing is corrected."""
    advantages: Tensor
    """(B,) one for each completion."""
    mask: Tensor
    """(B, T) bool or 0 and 1: the tokens that are learned. An environment's tokens, padding and
    completions left out for their length are not."""
    entropy: Tensor | None
    """(B, T) of the policy's next-token distribution, detached; None where all tokens count."""


@dataclass(frozen=True)
class Totals:
    """Counts of one optimiser step's global batch, over all workers and micro-batches."""

    completions: int
    """Rows, those fully masked included."""
    tokens: int
    """Sum of the masks."""
    max_completion_length: int


@dataclass(frozen=True)
class PolicyLoss:
    """A micro-batch's part of the step's loss, and detached sums for metrics. All are ()."""

    loss: Tensor
    kl_sum: Tensor
    """KL divergence from the reference, over learned tokens; 0 where beta is 0."""
    ratios: Tensor
    """Ratios there are: learned tokens, or at the sequence level completions. Divides the clips."""
    clip_low: Tensor
    """Ratios below the clip range where the advantage is negative."""
    clip_high: Tensor
    """Ratios above the clip range where the advantage is positive."""
    correction_sum: Tensor
    """Correction factor over learned tokens; 1 each where nothing is corrected."""
    correction_min: Tensor
    """The smallest factor of a learned token; infinity where there is none."""
    correction_max: Tensor
    """The largest; minus infinity where there is none."""
    beyond_threshold: Tensor
    """Learned tokens whose correction ratio was over the threshold: truncated or left out."""

    @property
    def clip(self) -> Tensor:
        """() ratios outside the clip range on the side that has no gradient."""
        return self.clip_low + self.clip_high


def policy_loss(
    batch: PolicyBatch,
    algorithm: AlgorithmSpec,
    totals: Totals,
    entropy_threshold: Tensor | float | None = None,
) -> PolicyLoss:
    """A micro-batch's part of the step's loss.

    The batch has what the algorithm needs: `ref_logp` for beta, `sampler_logp` for a correction,
    `entropy` and `entropy_threshold` for `top_entropy_quantile`.
    """
    mask = batch.mask.bool()
    advantages = batch.advantages[:, None]  # (B, 1)
    ratio = _policy_ratio(batch, mask, algorithm)  # (B, T) or (B, 1)
    losses = _surrogate(ratio, advantages, batch.logp, algorithm)
    if algorithm.top_entropy_quantile < 1:
        assert batch.entropy is not None
        assert entropy_threshold is not None
        losses = losses * (batch.entropy >= entropy_threshold)
    raw, factor = _correction_of(batch, mask, algorithm)
    losses = losses * factor
    kl = torch.zeros_like(batch.logp)
    if algorithm.beta:
        kl = _kl(batch, mask)
        losses = losses + algorithm.beta * kl
    low, high = _clip_range(algorithm)
    is_sequence = algorithm.importance_sampling_level == "sequence"
    counted = torch.ones_like(ratio, dtype=torch.bool) if is_sequence else mask
    factors = factor.detach().expand_as(mask)
    return PolicyLoss(
        loss=_aggregate(losses.where(mask, 0.0), mask, algorithm, totals),
        kl_sum=kl.detach().sum(),
        ratios=counted.sum(),
        clip_low=(counted & (ratio < low) & (advantages < 0)).sum(),
        clip_high=(counted & (ratio > high) & (advantages > 0)).sum(),
        correction_sum=factors.where(mask, 0.0).sum(),
        correction_min=factors.where(mask, inf).amin(),
        correction_max=factors.where(mask, -inf).amax(),
        beyond_threshold=(mask & (raw != factor)).sum(),
    )


def entropy_threshold(entropies: Tensor, quantile: float) -> Tensor:
    """The entropy that the share `quantile` of the tokens reaches: `top_entropy_quantile`.

    Args:
        entropies: (N,) of all learned tokens of the global batch.
        quantile: the share of the tokens to keep, above 0 and at most 1.

    Returns:
        () the threshold; tokens of this entropy are kept. Infinity where there are no tokens. Of
        more tokens than torch's quantile takes, every n-th is looked at.
    """
    if not entropies.numel():
        return entropies.new_tensor(inf)
    stride = -(-entropies.numel() // _QUANTILE_LIMIT)
    return torch.quantile(entropies[::stride].float(), 1 - quantile)


def correction(
    old_logp: Tensor, sampler_logp: Tensor, mask: Tensor, mode: CorrectionMode, threshold: float
) -> Tensor:
    """Factors that correct for an engine whose probabilities differ from the trainer's.

    The ratio of trainer to engine is that of a token, (B, T), or the product over a completion's
    learned tokens, (B, 1). Over the threshold it is truncated, or 0. Where the engine gave no
    number, a token's ratio is 1.
    """
    return _limited(_sampler_ratio(old_logp, sampler_logp, mask.bool(), mode), mode, threshold)


def _policy_ratio(batch: PolicyBatch, mask: Tensor, algorithm: AlgorithmSpec) -> Tensor:
    log_ratio = (batch.logp - batch.old_logp).where(mask, 0.0)
    if algorithm.importance_sampling_level == "sequence":
        log_ratio = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return log_ratio.exp()


def _clip_range(algorithm: AlgorithmSpec) -> tuple[float, float]:
    """The least and the largest ratio that pass unclipped."""
    high = algorithm.epsilon if algorithm.epsilon_high is None else algorithm.epsilon_high
    if algorithm.loss_type == "sapo":
        return 0.0, inf
    if algorithm.loss_type == "cispo":
        return 0.0, high
    return 1 - algorithm.epsilon, 1 + high


def _surrogate(ratio: Tensor, advantages: Tensor, logp: Tensor, algorithm: AlgorithmSpec) -> Tensor:
    """(B, T) or (B, 1): the loss of each token before it is weighted."""
    low, high = _clip_range(algorithm)
    if algorithm.loss_type == "cispo":
        return -ratio.clamp(max=high).detach() * advantages * logp
    if algorithm.loss_type == "sapo":
        positive, negative = algorithm.sapo_temperature_pos, algorithm.sapo_temperature_neg
        temperature = torch.where(advantages > 0, positive, negative)
        return -4 / temperature * torch.sigmoid(temperature * (ratio - 1)) * advantages
    capped = ratio if algorithm.delta is None else ratio.clamp(max=algorithm.delta)
    return -torch.minimum(capped * advantages, ratio.clamp(low, high) * advantages)


def _kl(batch: PolicyBatch, mask: Tensor) -> Tensor:
    """(B, T) the k3 estimate, exp(d) - d - 1 with d = ref - policy; 0 at masked places."""
    assert batch.ref_logp is not None
    difference = (batch.ref_logp - batch.logp).where(mask, 0.0)
    return torch.expm1(difference) - difference


def _correction_of(
    batch: PolicyBatch, mask: Tensor, algorithm: AlgorithmSpec
) -> tuple[Tensor, Tensor]:
    """The ratio of trainer to engine, and the factor that follows from it; (B, T) or (B, 1)."""
    mode = algorithm.rollout_importance_sampling_mode
    if mode is None:
        ones = torch.ones_like(batch.old_logp)
        return ones, ones
    assert batch.sampler_logp is not None
    ratio = _sampler_ratio(batch.old_logp, batch.sampler_logp, mask, mode)
    return ratio, _limited(ratio, mode, algorithm.rollout_importance_sampling_threshold)


def _sampler_ratio(
    old_logp: Tensor, sampler_logp: Tensor, mask: Tensor, mode: CorrectionMode
) -> Tensor:
    difference = (old_logp - sampler_logp).where(mask, 0.0).nan_to_num(nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    return difference.exp()


def _limited(ratio: Tensor, mode: CorrectionMode, threshold: float) -> Tensor:
    if mode.endswith("truncate"):
        return ratio.clamp(max=threshold)
    return ratio.masked_fill(ratio > threshold, 0.0)


def _aggregate(losses: Tensor, mask: Tensor, algorithm: AlgorithmSpec, totals: Totals) -> Tensor:
    """() the losses of all tokens, (B, T) and 0 where masked, by the counts of the global batch."""
    if algorithm.loss_type in ("grpo", "sapo"):
        means = losses.sum(-1) / mask.sum(-1).clamp(min=1)  # (B,)
        return means.sum() / max(totals.completions, 1)
    if algorithm.loss_type == "dr_grpo":
        return losses.sum() / max(totals.completions * totals.max_completion_length, 1)
    return losses.sum() / max(totals.tokens, 1)
