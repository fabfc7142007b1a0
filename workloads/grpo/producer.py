"""Makes generation batches: completions of the next prompts, scored and compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jobs.errors import RaysmithError, UserError
from jobs.spec.grpo import GrpoSpec
from workloads.data.prompts import PromptReader, locate
from workloads.grpo.advantages import advantages
from workloads.grpo.episodes import Episodes
from workloads.grpo.ledger import Ledger
from workloads.grpo.recorder import Recorder
from workloads.grpo.samples import Batch, Group, Sample, TrainRow
from workloads.rewards.samples import Sample as Scored
from workloads.rewards.samples import Scores

ENVIRONMENT = "environment"
"""The label of the environment's own reward."""


class Pool(Protocol):
    """What scores completions by one reward."""

    async def score(self, samples: Sequence[Scored]) -> Scores:
        """The scores of a group's completions. Never raises."""

    async def close(self) -> None:
        """Ends its processes."""


class Producer:
    """Draws prompts, has them completed and scored, and turns rewards into advantages."""

    def __init__(
        self,
        spec: GrpoSpec,
        seed: int,
        ledger: Ledger,
        reader: PromptReader,
        episodes: Episodes,
        pools: Mapping[str, Pool],
        recorder: Recorder,
    ) -> None:
        """`pools` are the rewards by label."""
        self._spec, self._seed = spec, seed
        self._ledger, self._reader, self._episodes = ledger, reader, episodes
        self._pools, self._recorder = pools, recorder
        self._positions: dict[int, list[int]] = {}
        self._written = 0
        self._scoring: list[tuple[float, float]] = []

    @property
    def progress(self) -> tuple[int, int]:
        """Completions of the batch in the making that are written, and their number."""
        return self._written, self._spec.generation_batch_size

    def positions(self, index: int) -> list[int]:
        """The prompts of a batch, which is then forgotten."""
        return self._positions.pop(index)

    async def produce(self, index: int) -> Batch:
        """Generation batch `index`.

        Raises:
            UserError: if no completion of it could be scored.
            RaysmithError: if the fleet has given up.
        """
        self._written, self._scoring = 0, []
        started = time.time()
        slots = [
            asyncio.ensure_future(self._slot(slot))
            for slot in range(self._spec.prompts_per_generation)
        ]
        try:
            results = await asyncio.gather(*slots)
        except BaseException:
            for slot in slots:
                slot.cancel()
            raise
        groups = [group for group, _ in results]
        finished = max(written for _, written in results)
        self._recorder.span("generation", index, started, finished)
        if self._scoring:
            self._recorder.span(
                "reward", index, self._scoring[0][0], max(stop for _, stop in self._scoring)
            )
        if not any(group.usable for group in groups):
            raise self._hopeless(groups)
        metrics = self._compare(groups) | self._staleness(groups, index)
        self._positions[index] = [group.position for group in groups]
        step = index * self._spec.algorithm.steps_per_batch
        self._recorder.completions(step, groups)
        rows = [self._row(group, sample) for group in groups for sample in group.samples]
        metrics["generation_s"] = round(finished - started, 3)
        return Batch(index, self._mixed(rows, index), metrics, _preview(groups))

    async def _slot(self, slot: int) -> tuple[Group, float]:
        """One group of the batch, and when its last completion was written.

        A group that teaches nothing is replaced, within bounds.
        """
        algorithm = self._spec.algorithm
        tries = algorithm.max_resample_times
        while True:
            group, written = await self._group(self._ledger.dispatch(), slot)
            dull = algorithm.dynamic_sample and _is_dull(group)
            if not tries or (group.usable > 1 and not dull):
                self._ledger.complete(group.position)
                return group, written
            tries -= 1
            self._ledger.filter(group.position)
            self._recorder.filtered(group, "all rewards are equal" if dull else "it failed")
            self._written -= len(group.samples)

    async def _group(self, position: int, slot: int) -> tuple[Group, float]:
        epoch, row = locate(
            position, self._reader.rows, self._seed if self._spec.dataset.shuffle else None
        )
        prompt = (await asyncio.to_thread(self._reader.read, [row]))[0]
        uid = f"{epoch}-{prompt.row}"

        def wrote() -> None:
            self._written += 1

        # The group's completions share the prompt in one engine's cache.
        preferred = slot % self._spec.rollout.actors
        samples = await asyncio.gather(
            *(
                self._episodes.complete(uid, prompt, number, preferred, wrote)
                for number in range(self._spec.rollout.num_generations)
            )
        )
        written = time.time()
        group = Group(position, uid, prompt, list(samples))
        if group.usable:
            await self._score(group)
        self._recorder.failed(group)
        return group, written

    async def _score(self, group: Group) -> None:
        well = [sample for sample in group.samples if not sample.failures]
        scored = [_as_scored(group, sample) for sample in well]
        started = time.time()
        scores = await asyncio.gather(*(pool.score(scored) for pool in self._pools.values()))
        self._scoring.append((started, time.time()))
        for label, score in zip(self._pools, scores, strict=True):
            self._recorder.reward_seconds(label, score.seconds)
            for index, sample in enumerate(well):
                sample.rewards[label] = score.values[index]
                if index in score.failures:
                    sample.failures[label] = score.failures[index]
        if self._spec.environment:
            for sample in well:
                sample.rewards[ENVIRONMENT] = sample.environment_reward
        weights = self._weights()
        for sample in well:
            sample.reward = _total(sample, weights)

    def _weights(self) -> dict[str, float]:
        weights = {reward.label: reward.weight for reward in self._spec.rewards}
        if self._spec.environment:
            weights[ENVIRONMENT] = self._spec.environment.reward_weight
        return weights

    def _compare(self, groups: Sequence[Group]) -> dict[str, float]:
        """Sets advantages; returns the batch's metrics."""
        weights = self._weights()
        samples = [sample for group in groups for sample in group.samples]
        table = np.array(
            [
                [
                    np.nan if s.failures or s.rewards.get(k) is None else s.rewards[k]
                    for k in weights
                ]
                for s in samples
            ],
            dtype=np.float64,
        )
        size = self._spec.rollout.num_generations
        result = advantages(table, np.array(list(weights.values())), size, self._spec.algorithm)
        for sample, advantage in zip(samples, result.advantages, strict=True):
            sample.advantage = float(advantage)
        known = not np.isnan(result.reward).all()
        lengths = [sum(s.learned) for s in samples if not s.failures]
        spread = [
            np.std([s.reward for s in g.samples if s.reward is not None], ddof=1)
            for g in groups
            if g.usable > 1
        ]
        metrics = {
            "reward": float(np.nanmean(result.reward)) if known else 0.0,
            "reward_std": float(np.mean(spread)) if spread else 0.0,
            "frac_reward_zero_std": float(np.mean(result.zero_spread)),
            "completions/mean_length": float(np.mean(lengths)),
            "completions/min_length": float(np.min(lengths)),
            "completions/max_length": float(np.max(lengths)),
            "completions/clipped_ratio": float(
                np.mean([s.truncated for s in samples if not s.failures])
            ),
            "completions/failed": float(sum(bool(s.failures) for s in samples)),
        }
        for column, label in enumerate(weights):
            values = table[:, column]
            if not np.isnan(values).all():
                metrics[f"rewards/{label}/mean"] = float(np.nanmean(values))
                metrics[f"rewards/{label}/std"] = float(np.nanstd(values))
        return metrics

    def _staleness(self, groups: Sequence[Group], index: int) -> dict[str, float]:
        """How many weight updates completions are behind those that they will be trained with."""
        behind = [index - s.versions[0] for g in groups for s in g.samples if s.versions]
        limit = self._spec.rollout.max_staleness
        if max(behind) > limit:
            raise RaysmithError(
                f"a completion of batch {index} is {max(behind)} weight updates behind, and "
                f"max_staleness is {limit}",
                "this is a fault of raysmith: please report it with the attempt's folder",
            )
        return {"staleness/mean": float(np.mean(behind)), "staleness/max": float(max(behind))}

    def _row(self, group: Group, sample: Sample) -> TrainRow:
        masked = sample.failures or (
            sample.truncated and self._spec.algorithm.mask_truncated_completions
        )
        prompt_ids = sample.prompt_ids or list(group.prompt.prompt_ids)
        # A completion that failed has no tokens; one stands in, which nothing is learned from.
        tokens = sample.token_ids or prompt_ids[-1:]
        learned = [False] * len(tokens) if masked else sample.learned
        return TrainRow(
            key=group.position * len(group.samples) + sample.number,
            prompt_ids=prompt_ids,
            token_ids=tokens,
            learned=learned,
            logprobs=sample.logprobs or [0.0],
            advantage=sample.advantage,
            counts=not sample.failures,
        )

    def _mixed(self, rows: list[TrainRow], index: int) -> list[TrainRow]:
        """The rows in the order in which steps take them: at random, where there are several."""
        if self._spec.algorithm.steps_per_generation == 1:
            return rows
        order = np.random.default_rng([self._seed, index]).permutation(len(rows))
        return [rows[i] for i in order]

    def _hopeless(self, groups: Sequence[Group]) -> RaysmithError:
        failures = [f for g in groups for s in g.samples for f in s.failures.items()]
        source, reason = failures[0]
        return UserError(
            f"all {len(groups)} prompts of a batch failed, the first one in {source!r}: {reason}",
            "mend it; the prompts and reasons are in failures.jsonl beside the attempt's logs",
        )

    async def close(self) -> None:
        """Ends the rewards' processes."""
        for pool in self._pools.values():
            await pool.close()


def _is_dull(group: Group) -> bool:
    return len({sample.reward for sample in group.samples if not sample.failures}) <= 1


def _total(sample: Sample, weights: dict[str, float]) -> float | None:
    values = [
        weight * value
        for label, weight in weights.items()
        if (value := sample.rewards.get(label)) is not None
    ]
    return sum(values) if values and not sample.failures else None


def _as_scored(group: Group, sample: Sample) -> Scored:
    return Scored(
        uid=f"{group.uid}/{sample.number}",
        prompt=list(group.prompt.messages),
        completion=sample.text,
        completion_ids=[i for i, own in zip(sample.token_ids, sample.learned, strict=True) if own],
        truncated=sample.truncated,
        columns=group.prompt.columns,
    )


def _preview(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The first completion that can be learned from, for the log."""
    for group in groups:
        for sample in group.samples:
            if not sample.failures:
                asked = group.prompt.messages[-1]["content"]
                return [{"prompt": asked, "completion": sample.text, "reward": sample.reward}]
    return []
