"""From rewards to advantages: how much better a completion is than what was to be expected.

Completions of one prompt form a group, and stand one after the other. With r a completion's reward:

    grpo                  r - mean of the group
    rloo                  r - mean of the others in the group
    reinforce_plus_plus   r - mean of the group

divided by the standard deviation, plus 1e-4, of the group's or the batch's rewards, or by nothing;
where reinforce_plus_plus is scaled by the batch, it is by the spread of the advantages. Standard
deviations are those of a sample (n - 1). grpo is as in TRL 1.16, the others as in ms-swift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.spec.algorithm import AlgorithmSpec

_EPSILON = 1e-4
_NO_SPREAD = 1e-8


@dataclass(frozen=True)
class Advantages:
    """What follows from the rewards of a generation batch; N completions in groups of G."""

    advantages: np.ndarray
    """(N,) float64; 0 for a completion without a reward, or with nothing to compare it to."""
    reward: np.ndarray
    """(N,) the weighted sum; NaN for a completion that no reward could score."""
    group_mean: np.ndarray
    """(N,) of the completion's group; NaN where none in it has a reward."""
    group_std: np.ndarray
    """(N,) of the completion's group; NaN where fewer than two in it have a reward."""
    zero_spread: np.ndarray
    """(N/G,) bool: groups to learn nothing from, as all rewards are equal or fewer than two."""


def advantages(
    rewards: np.ndarray, weights: np.ndarray, group_size: int, algorithm: AlgorithmSpec
) -> Advantages:
    """The advantage of each completion of a generation batch.

    Args:
        rewards: (N, K) of K rewards, NaN where one has nothing to say or failed; infinity counts
            as NaN. A completion that is NaN throughout is left out of what others are compared to.
        weights: (K,) factors of the rewards in the sum.
        group_size: G, which divides N.
        algorithm: says what to compare with, and what to divide by.
    """
    reward = _weighted_sum(rewards, weights)
    groups = reward.reshape(-1, group_size)  # (N/G, G)
    count = _count(groups)  # (N/G, 1)
    mean, std = _mean(groups), _std(groups)
    centred = np.where(count > 1, groups - mean, np.nan)
    if algorithm.advantage_estimator == "rloo":
        centred = centred * count / np.maximum(count - 1, 1)
    scaled = centred / _divisor(groups, centred, std, algorithm)
    return Advantages(
        advantages=np.nan_to_num(scaled, nan=0.0).reshape(-1),
        reward=reward,
        group_mean=np.repeat(mean, group_size),
        group_std=np.repeat(std, group_size),
        zero_spread=(np.isnan(std) | (std <= _NO_SPREAD)).reshape(-1),
    )


def _weighted_sum(rewards: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) float64, NaN where all of a row is."""
    numbers = np.asarray(rewards, np.float64)
    known = np.isfinite(numbers)
    values = np.where(known, numbers, 0.0) @ np.asarray(weights, np.float64)
    return np.where(known.any(axis=1), values, np.nan)


def _divisor(
    groups: np.ndarray, centred: np.ndarray, std: np.ndarray, algorithm: AlgorithmSpec
) -> np.ndarray | float:
    if algorithm.scaling == "none":
        return 1.0
    if algorithm.scaling == "group":
        return std + _EPSILON
    of_advantages = algorithm.advantage_estimator == "reinforce_plus_plus"
    values = centred if of_advantages else groups
    return _std(values.reshape(1, -1)) + _EPSILON


def _count(values: np.ndarray) -> np.ndarray:
    """(rows, 1) how many numbers are in each row."""
    return (~np.isnan(values)).sum(axis=1, keepdims=True)


def _mean(values: np.ndarray) -> np.ndarray:
    """(rows, 1) of the numbers in each row, NaN where there is none."""
    count = _count(values)
    total = np.nansum(values, axis=1, keepdims=True)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _std(values: np.ndarray) -> np.ndarray:
    """(rows, 1) sample standard deviation of the numbers in each row, NaN below two of them."""
    count = _count(values)
    squares = np.nansum((values - _mean(values)) ** 2, axis=1, keepdims=True)
    return np.sqrt(np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan))
