"""Batches from prompts, completions and rewards that behave as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import RaysmithError, UserError
from jobs.spec.grpo import GrpoSpec
from storage.layout import AttemptLayout
from workloads.data.prompts import Prompt
from workloads.grpo.ledger import Ledger
from workloads.grpo.producer import Producer
from workloads.grpo.recorder import Recorder
from workloads.grpo.samples import Batch, Sample
from workloads.rewards.samples import Sample as Scored
from workloads.rewards.samples import Scores

GROUP = 4


class FakeReader:
    """Prompts that are numbered."""

    rows = 100

    def read(self, rows: Iterable[int]) -> list[Prompt]:
        return [
            Prompt(row, [1, row], [{"role": "user", "content": f"row {row}"}], {"row": row})
            for row in rows
        ]


class FakeEpisodes:
    """Completes a prompt as a function of its row and the completion's number."""

    def __init__(self, write: Callable[[int, Sample], None]) -> None:
        self._write = write

    async def complete(
        self, uid: str, prompt: Prompt, number: int, preferred: int | None,
        wrote: Callable[[], None],
    ) -> Sample:  # fmt: skip
        sample = Sample(number, token_ids=[7, 8], learned=[True, True], logprobs=[-0.1, -0.2])
        sample.messages = [{"role": "assistant", "content": f"{prompt.row}.{number}"}]
        sample.versions = (0, 0)
        self._write(prompt.row, sample)
        wrote()
        return sample


class FakePool:
    """Scores by a function of the completion, which may raise."""

    def __init__(self, score: Callable[[Scored], float | None]) -> None:
        self._score = score

    async def score(self, samples: Sequence[Scored]) -> Scores:
        values: list[float | None] = []
        failures: dict[int, str] = {}
        for index, sample in enumerate(samples):
            try:
                values.append(self._score(sample))
            except ArithmeticError as error:
                values.append(None)
                failures[index] = str(error)
        return Scores(values, failures, 0.0)

    async def close(self) -> None:
        """Nothing to end."""


def _nothing(row: int, sample: Sample) -> None:
    """Leaves a completion as it is."""


def _number(sample: Scored) -> float:
    return float(sample.completion.rpartition(".")[2])


class Setup:
    """A producer of two prompts at a time."""

    def __init__(
        self,
        folder: Path,
        *rewards: Callable[[Scored], float | None],
        write: Callable[[int, Sample], None] = _nothing,
        **algorithm: Any,
    ) -> None:
        self.spec = GrpoSpec.model_validate(
            {
                "kind": "grpo",
                "model": "m",
                "dataset": {"train": ("x",), "shuffle": False},
                "rewards": [{"name": "accuracy", "label": f"r{i}"} for i in range(len(rewards))],
                "rollout": {"num_generations": GROUP, "actors": 2},
                "algorithm": algorithm,
                "training": {"global_batch_size": 2 * GROUP},
            }
        )
        self.layout, self.ledger = AttemptLayout(folder), Ledger()
        reader: Any = FakeReader()
        episodes: Any = FakeEpisodes(write)
        pools = {f"r{i}": FakePool(reward) for i, reward in enumerate(rewards)}
        self.recorder = Recorder(self.layout)
        self.producer = Producer(self.spec, 0, self.ledger, reader, episodes, pools, self.recorder)

    def produce(self, index: int = 0) -> Batch:
        """The batch."""
        try:
            return asyncio.run(self.producer.produce(index))
        finally:
            self.recorder.close()

    def lines(self, path: Path) -> list[dict[str, Any]]:
        """The records in a file."""
        return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_has_every_completion_once(tmp_path: Path) -> None:
    setup = Setup(tmp_path, _number)
    batch = setup.produce()
    assert [row.key for row in batch.rows] == list(range(2 * GROUP))
    assert [row.prompt_ids for row in batch.rows[::GROUP]] == [[1, 0], [1, 1]]
    assert sum(row.advantage for row in batch.rows[:GROUP]) == pytest.approx(0)
    assert batch.rows[3].advantage > batch.rows[0].advantage
    assert batch.metrics["reward"] == pytest.approx(1.5)
    assert setup.producer.positions(0) == [0, 1]
    assert setup.ledger.counts()["under_way"] == 2


def test_rewards_are_weighted_and_logged_apart(tmp_path: Path) -> None:
    setup = Setup(tmp_path, _number, lambda _: 10.0)
    batch = setup.produce()
    assert batch.metrics["rewards/r0/mean"] == pytest.approx(1.5)
    assert batch.metrics["rewards/r1/mean"] == pytest.approx(10)
    first = setup.lines(setup.layout.completions_jsonl)[1]
    assert first["rewards"] == {"r0": 1.0, "r1": 10.0}
    assert first["reward"] == 11.0


def test_a_completion_that_can_not_be_scored_is_named_and_never_rewarded(tmp_path: Path) -> None:
    def picky(sample: Scored) -> float:
        if sample.columns["row"] == 1 and sample.completion.endswith(".2"):
            raise ArithmeticError("not to its taste")
        return _number(sample)

    setup = Setup(tmp_path, picky)
    batch = setup.produce()
    failed = batch.rows[GROUP + 2]
    assert failed.advantage == 0
    assert not failed.counts
    assert not any(failed.learned)
    others = [row.advantage for row in batch.rows[GROUP:] if row.counts]
    assert sum(others) == pytest.approx(0)
    (record,) = setup.lines(setup.layout.failures_jsonl)
    assert (record["row"], record["sample"], record["source"]) == (1, 2, "r0")
    assert record["reason"] == "not to its taste"


def test_a_group_that_fails_is_replaced(tmp_path: Path) -> None:
    def broken(row: int, sample: Sample) -> None:
        if row == 0:
            sample.failures["generation"] = "too long"

    setup = Setup(tmp_path, _number, write=broken)
    batch = setup.produce()
    assert sorted(setup.producer.positions(0)) == [1, 2]
    assert set(setup.ledger.filtered) == {0}
    assert all(row.counts for row in batch.rows)


def test_a_batch_without_a_single_score_ends_the_run(tmp_path: Path) -> None:
    def fails(_: Scored) -> float:
        raise ArithmeticError("always")

    with pytest.raises(UserError, match=r"'r0': always"):
        Setup(tmp_path, fails).produce()


def test_groups_of_equal_rewards_are_drawn_anew_within_bounds(tmp_path: Path) -> None:
    def dull(sample: Scored) -> float:
        return 0.0 if sample.columns["row"] < 3 else _number(sample)

    setup = Setup(tmp_path, dull, dynamic_sample=True)
    setup.produce()
    assert set(setup.ledger.filtered) == {0, 1, 2}
    endless = Setup(tmp_path, lambda _: 0.0, dynamic_sample=True, max_resample_times=2)
    batch = endless.produce()
    assert len(endless.ledger.filtered) == 4
    assert batch.metrics["frac_reward_zero_std"] == 1.0


def test_equal_rewards_are_kept_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    setup = Setup(tmp_path, lambda _: 0.5)
    batch = setup.produce()
    assert not setup.ledger.filtered
    assert all(row.advantage == 0 for row in batch.rows)


def test_truncated_completions_can_be_masked(tmp_path: Path) -> None:
    def cut(row: int, sample: Sample) -> None:
        sample.truncated = sample.number == 1

    masked = Setup(tmp_path, _number, write=cut, mask_truncated_completions=True).produce()
    assert [any(row.learned) for row in masked.rows[:GROUP]] == [True, False, True, True]
    assert all(row.counts for row in masked.rows)
    kept = Setup(tmp_path, _number, write=cut).produce()
    assert all(any(row.learned) for row in kept.rows)
    assert kept.metrics["completions/clipped_ratio"] == 0.25


def test_completions_of_weights_that_are_too_old_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RaysmithError, match="3 weight updates behind"):
        Setup(tmp_path, _number).produce(index=3)


def test_rows_are_mixed_where_a_batch_is_several_steps(tmp_path: Path) -> None:
    setup = Setup(tmp_path, _number, steps_per_generation=2)
    keys = [row.key for row in setup.produce().rows]
    assert sorted(keys) == list(range(4 * GROUP))
    assert keys != sorted(keys)
    again = Setup(tmp_path, _number, steps_per_generation=2)
    assert keys == [row.key for row in again.produce().rows]
