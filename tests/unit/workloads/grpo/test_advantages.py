"""Advantages against a reference in plain Python, and what rewards that say nothing do to them."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import numpy as np
import pytest

from jobs.spec.algorithm import AdvantageEstimator, AlgorithmSpec, ScaleRewards
from workloads.grpo.advantages import Advantages, advantages

NAN = math.nan
ESTIMATORS: tuple[AdvantageEstimator, ...] = ("grpo", "rloo", "reinforce_plus_plus")
SCALINGS: tuple[ScaleRewards, ...] = ("group", "batch", "none")
CASES = list(itertools.product(ESTIMATORS, SCALINGS))


def of(
    rewards: list[float],
    group_size: int,
    estimator: AdvantageEstimator = "grpo",
    scaling: ScaleRewards | None = None,
) -> Advantages:
    """The advantages from a single reward."""
    algorithm = AlgorithmSpec(advantage_estimator=estimator, scale_rewards=scaling)
    return advantages(np.array(rewards)[:, None], np.ones(1), group_size, algorithm)


def reference(
    rows: list[list[float]],
    weights: list[float],
    size: int,
    estimator: AdvantageEstimator,
    scaling: ScaleRewards,
) -> list[float]:
    """One completion at a time, straight from the definitions."""
    totals = [
        sum(w * r for w, r in zip(weights, row, strict=True) if not math.isnan(r))
        if not all(map(math.isnan, row))
        else NAN
        for row in rows
    ]
    compared: list[float] = []
    group_stds: list[float] = []
    for start in range(0, len(totals), size):
        known = [r for r in totals[start : start + size] if not math.isnan(r)]
        for r in totals[start : start + size]:
            if math.isnan(r) or len(known) < 2:
                compared.append(NAN)
                group_stds.append(NAN)
                continue
            baseline = statistics.fmean(known)
            if estimator == "rloo":
                baseline = (sum(known) - r) / (len(known) - 1)
            compared.append(r - baseline)
            group_stds.append(statistics.stdev(known))
    if scaling == "none":
        scaled = compared
    elif scaling == "group":
        scaled = [a / (std + 1e-4) for a, std in zip(compared, group_stds, strict=True)]
    else:
        spread = compared if estimator == "reinforce_plus_plus" else totals
        known = [value for value in spread if not math.isnan(value)]
        std = statistics.stdev(known) if len(known) > 1 else NAN
        scaled = [a / (std + 1e-4) for a in compared]
    return [0.0 if math.isnan(a) else a for a in scaled]


@pytest.mark.parametrize(("estimator", "scaling"), CASES)
def test_as_the_definitions_say(estimator: AdvantageEstimator, scaling: ScaleRewards) -> None:
    draw = random.Random(f"{estimator} {scaling}")
    algorithm = AlgorithmSpec(advantage_estimator=estimator, scale_rewards=scaling)
    for _ in range(200):
        size, groups, kinds = draw.randint(2, 6), draw.randint(1, 4), draw.randint(1, 3)
        weights = [draw.choice((1.0, 0.1, 0.0, -0.5)) for _ in range(kinds)]
        rows = [
            [draw.choice((NAN, 0.0, 1.0, draw.gauss(0, 3))) for _ in range(kinds)]
            for _ in range(size * groups)
        ]
        found = advantages(np.array(rows), np.array(weights), size, algorithm)
        expected = reference(rows, weights, size, estimator, scaling)
        np.testing.assert_allclose(found.advantages, expected, rtol=1e-9, atol=1e-9)


def test_a_group_by_hand() -> None:
    found = of([1.0, 0.0, 0.0, 3.0], 4)
    # The mean is 1, and the sample's standard deviation the root of (0 + 1 + 1 + 4) / 3.
    expected = np.array([0.0, -1.0, -1.0, 2.0]) / (math.sqrt(2) + 1e-4)
    np.testing.assert_allclose(found.advantages, expected)
    np.testing.assert_allclose(found.group_mean, [1.0] * 4)
    np.testing.assert_allclose(found.group_std, [math.sqrt(2)] * 4)
    assert not found.zero_spread.any()


def test_rloo_compares_with_the_others() -> None:
    np.testing.assert_allclose(of([1.0, 0.0, 0.5], 3, "rloo").advantages, [0.75, -0.75, 0.0])


def test_reinforce_plus_plus_is_scaled_by_the_advantages_of_the_batch() -> None:
    # The groups' means differ widely, which must not count as spread.
    found = of([100.0, 102.0, 0.0, 2.0], 2, "reinforce_plus_plus")
    expected = np.array([-1, 1, -1, 1]) / (math.sqrt(4 / 3) + 1e-4)
    np.testing.assert_allclose(found.advantages, expected)
    by_rewards = of([100.0, 102.0, 0.0, 2.0], 2, "grpo", "batch")
    assert np.abs(by_rewards.advantages).max() < 0.1


def test_the_sum_is_weighted_and_leaves_out_what_has_nothing_to_say() -> None:
    rewards = np.array([[1.0, NAN], [NAN, 1.0], [1.0, 1.0], [NAN, NAN]])
    found = advantages(rewards, np.array([1.0, 0.5]), 4, AlgorithmSpec())
    np.testing.assert_array_equal(found.reward, [1.0, 0.5, 1.5, NAN])


def test_a_completion_without_a_reward_moves_nothing() -> None:
    found = of([0.0, 1.0, NAN, 2.0], 4)
    np.testing.assert_allclose(found.advantages, np.array([-1, 0, 0, 1]) / (1 + 1e-4))
    np.testing.assert_array_equal(found.group_mean, [1.0] * 4)


@pytest.mark.parametrize(("estimator", "scaling"), CASES)
def test_a_completion_with_nothing_to_compare_to_has_no_advantage(
    estimator: AdvantageEstimator, scaling: ScaleRewards
) -> None:
    found = of([NAN, 5.0, NAN, NAN], 2, estimator, scaling)
    np.testing.assert_array_equal(found.advantages, [0.0] * 4)
    np.testing.assert_array_equal(found.group_mean, [5.0, 5.0, NAN, NAN])
    np.testing.assert_array_equal(found.group_std, [NAN] * 4)
    assert found.zero_spread.tolist() == [True, True]


def test_groups_that_teach_nothing_are_told() -> None:
    # 0.1 three times has a mean that is not quite 0.1.
    found = of([0.1, 0.1, 0.1, 1.0, 0.0, 0.0, 1.0, NAN, 1.0], 3)
    assert found.zero_spread.tolist() == [True, False, True]
    np.testing.assert_allclose(found.advantages[[0, 1, 2, 6, 7, 8]], 0.0, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_batch_of_equal_rewards_has_no_advantages(estimator: AdvantageEstimator) -> None:
    np.testing.assert_allclose(of([2.0] * 6, 3, estimator, "batch").advantages, [0.0] * 6)


def test_an_infinite_reward_counts_as_none() -> None:
    found = of([math.inf, 0.0, 1.0, -math.inf], 4)
    np.testing.assert_array_equal(found.reward, [NAN, 0.0, 1.0, NAN])
    assert np.abs(found.advantages).max() < 1
