"""Scores answers by the stage's rewards, a chunk at a time; a chunk that is done is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from jobs.spec.sample import SampleSpec
from storage.durable import write_atomic
from workloads.data.prompts import Prompt
from workloads.generate.answers import Answer, Chunk, chunks
from workloads.generate.stage import Answers
from workloads.rewards.pool import RewardPool
from workloads.rewards.samples import Sample
from workloads.sample.keep import Scored, total


def score(
    answers: Answers, spec: SampleSpec, folder: Path, paths: Sequence[str],
    models: Mapping[str, str], tell: Callable[[int], None],
) -> None:  # fmt: skip
    """Scores all answers that are not scored yet; `read_scores` gives them. Needs a connected Ray.

    Args:
        answers: what the model answered.
        spec: the rewards, and how answers were made.
        folder: where scores are kept.
        paths: folders that the user's modules may lie in.
        models: folders of reward models by the reward's label.
        tell: called with the number of prompts that are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_score(answers, spec, folder, paths, models, tell))


def read_scores(folder: Path, rows: int) -> Iterator[list[Scored]]:
    """The scored answers of each prompt, in the prompts' order."""
    for chunk in chunks(rows):
        with chunk.file(folder).open(encoding="utf-8") as file:
            for line in file:
                yield [Scored(**values) for values in json.loads(line)]


async def _score(
    answers: Answers, spec: SampleSpec, folder: Path, paths: Sequence[str],
    models: Mapping[str, str], tell: Callable[[int], None],
) -> None:  # fmt: skip
    pools = {
        reward.label: RewardPool(
            reward,
            max_completion_length=spec.generation.max_new_tokens,
            paths=paths,
            model_folder=models.get(reward.label),
        )
        for reward in spec.rewards
    }
    rows = iter(answers)
    try:
        for chunk in chunks(answers.prepared.rows):
            batch = list(islice(rows, chunk.rows))
            if not chunk.file(folder).is_file():
                groups = await asyncio.gather(*(_group(*row, spec, pools) for row in batch))
                _write(folder, chunk, groups)
            tell(chunk.stop)
    finally:
        for pool in pools.values():
            await pool.close()


async def _group(
    prompt: Prompt, answer: Answer, spec: SampleSpec, pools: Mapping[str, RewardPool]
) -> list[Scored]:
    samples = [
        Sample(
            uid=f"{prompt.row}/{number}",
            prompt=list(prompt.messages),
            completion=completion.text,
            completion_ids=completion.token_ids,
            truncated=completion.finish_reason == "length",
            columns=prompt.columns,
        )
        for number, completion in enumerate(answer.completions)
    ]
    found = await asyncio.gather(*(pool.score(samples) for pool in pools.values()))
    weights = {reward.label: reward.weight for reward in spec.rewards}
    scored = []
    for index, sample in enumerate(samples):
        rewards = {label: each.values[index] for label, each in zip(pools, found, strict=True)}
        failures = [
            f"{label}: {each.failures[index]}"
            for label, each in zip(pools, found, strict=True)
            if index in each.failures
        ]
        scored.append(
            Scored(
                text=sample.completion,
                truncated=sample.truncated,
                rewards=rewards,
                reward=None if failures else total(rewards, weights),
                failure="; ".join(failures) or None,
            )
        )
    return scored


def _write(folder: Path, chunk: Chunk, groups: Sequence[Sequence[Scored]]) -> None:
    lines = (
        json.dumps([asdict(each) for each in group], ensure_ascii=False) + "\n" for group in groups
    )
    write_atomic(chunk.file(folder), "".join(lines).encode("utf-8", "backslashreplace"))
