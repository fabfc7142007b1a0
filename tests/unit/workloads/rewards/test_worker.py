"""The process that runs a reward, here without Ray: what comes of every kind of function."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.spec.rewards import RewardSpec
from workloads.rewards.samples import Sample, Scores
from workloads.rewards.worker import RewardActor

MODULE = """
import asyncio, math
import numpy, torch

def lengths(completions, **columns):
    return [len(text) for text in completions]

async def later(completions, level, **columns):
    await asyncio.sleep(0)
    return [None if n is None else n + 0.5 for n in level]

loops = set()
async def same_loop(completions):
    loops.add(asyncio.get_running_loop())
    return [len(loops)] * len(completions)

def array(completions): return numpy.arange(len(completions))
def tensor(completions): return torch.arange(len(completions), requires_grad=False) / 2
def items(completions): return tuple(torch.tensor(1.5) for _ in completions)
def odd(completions): return [1, math.nan, "2", -math.inf]
def true(completions): return [True, False, None, 10**400]
def one(completions): return 1.0
def nothing(completions): return None
def short(completions): return [1.0]
def fails(completions): raise KeyError("level " + "x" * 10_000)
async def fails_later(completions): raise ValueError("two\\nlines")
def wants(completions, missing): return [1.0] * len(completions)
"""
SAMPLES = [
    Sample(str(i), [{"role": "user", "content": "?"}], "a" * i, [1] * i, False, {"level": level})
    for i, level in enumerate([1, None, 3, 4])
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "unit_worker_rewards.py").write_text(MODULE)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("unit_worker_rewards", None)


Make = Callable[[str], RewardActor]


@pytest.fixture
def actor(folder: Path) -> Iterator[Make]:
    """Makes the worker of a function of `MODULE`."""
    made: list[RewardActor] = []

    def make(name: str) -> RewardActor:
        spec = RewardSpec(import_path=f"unit_worker_rewards:{name}")
        made.append(RewardActor(spec, 8, [str(folder)], None))
        assert made[-1].load() is None
        return made[-1]

    yield make
    for worker in made:
        worker._runner.close()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lengths", [0, 1, 2, 3]),
        ("later", [1.5, None, 3.5, 4.5]),
        ("array", [0, 1, 2, 3]),
        ("tensor", [0, 0.5, 1, 1.5]),
        ("items", [1.5] * 4),
    ],
)
def test_scores(actor: Make, name: str, values: list[float | None]) -> None:
    found = actor(name).score(SAMPLES)
    assert isinstance(found, Scores)
    assert found.values == values
    assert found.failures == {}
    assert all(type(value) in (float, type(None)) for value in found.values)


def test_what_is_no_finite_number_is_a_failure_of_its_own(actor: Make) -> None:
    found = actor("odd").score(SAMPLES)
    assert isinstance(found, Scores)
    assert found.values == [1, None, None, None]
    assert found.failures == {
        1: "it returned the float nan, which is no finite number",
        2: "it returned the str '2', which is no finite number",
        3: "it returned the float -inf, which is no finite number",
    }
    found = actor("true").score(SAMPLES)
    assert isinstance(found, Scores)
    assert found.values == [1, 0, None, None]
    assert list(found.failures) == [3]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("one", "TypeError: it returned the float 1.0, and not a list of numbers"),
        ("nothing", "TypeError: it returned the NoneType None, and not a list of numbers"),
        ("short", "ValueError: it returned 1 scores for 4 completions"),
        ("fails_later", "ValueError: two lines"),
    ],
)
def test_why_there_are_no_scores(actor: Make, name: str, reason: str) -> None:
    assert actor(name).score(SAMPLES) == reason


def test_a_missing_column_is_named(actor: Make) -> None:
    reason = actor("wants").score(SAMPLES)
    assert isinstance(reason, str)
    assert "missing 1 required positional argument: 'missing'" in reason


def test_a_reason_is_not_endless(actor: Make) -> None:
    reason = actor("fails").score(SAMPLES)
    assert isinstance(reason, str)
    assert reason.startswith("KeyError: 'level xxx")
    assert len(reason) < 600


def test_all_batches_of_a_coroutine_run_on_one_loop(actor: Make) -> None:
    made = actor("same_loop")
    for _ in range(2):
        found = made.score(SAMPLES)
        assert isinstance(found, Scores)
        assert found.values == [1] * 4


@pytest.mark.parametrize(
    ("import_path", "reason"),
    [
        ("unit_no_such_module:f", "ModuleNotFoundError: No module named 'unit_no_such_module'"),
        ("unit_worker_rewards:no_such", "UserError: {}/unit_worker_rewards.py has no function"),
    ],
)
def test_why_a_reward_can_not_be_loaded(folder: Path, import_path: str, reason: str) -> None:
    made = RewardActor(RewardSpec(import_path=import_path), 8, [str(folder)], None)
    assert str(made.load()).startswith(reason.format(folder))


def test_nothing_of_the_users_hides_what_is_installed(actor: Make, folder: Path) -> None:
    actor("lengths")
    assert sys.path[-1] == str(folder)
