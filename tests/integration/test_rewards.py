"""Rewards in processes of their own: what they may do wrong, and what comes of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.spec.rewards import RewardSpec
from workloads.rewards.pool import RewardPool
from workloads.rewards.samples import Sample, Scores

if TYPE_CHECKING:
    from tests.integration.conftest import OwnRay

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

USER = "integration_rewards"
MODULE = """
import asyncio, os, time

def act(text):
    if text.startswith("raise"):
        raise ValueError(f"no score for {text}")
    if text.startswith("hang"):
        time.sleep(600)
    if text.startswith("die"):
        os._exit(1)
    if text.startswith("interrupt"):
        raise KeyboardInterrupt
    if text.startswith("leave"):
        raise SystemExit(3)
    return float(len(text))

def scores(completions, **columns):
    return [act(text) for text in completions]

async def later(completions, solution):
    await asyncio.sleep(600 if "never" in completions else 0)
    return [act(text) + (answer == "yes") for text, answer in zip(completions, solution)]

def process(completions, level):
    time.sleep(level[0] or 0)
    return [float(os.getpid())] * len(completions)
"""


@pytest.fixture(scope="module", autouse=True)
def ray_cluster(own_ray: OwnRay) -> Iterator[None]:
    """A Ray of two cores."""
    with own_ray(2):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user's module lies."""
    path = tmp_path_factory.mktemp("user")
    (path / f"{USER}.py").write_text(MODULE)
    return path


def group(*texts: str, **columns: Any) -> list[Sample]:
    """A group's samples."""
    prompt: Any = [{"role": "user", "content": "?"}]
    return [Sample(str(i), prompt, text, [1], False, columns) for i, text in enumerate(texts)]


def with_pool(
    folder: Path, use: Callable[[RewardPool], Awaitable[None]], function: str, **fields: Any
) -> None:
    """Uses a pool for a reward, by the user's function unless `fields` name a built-in."""
    if "name" not in fields:
        fields["import_path"] = function

    async def run() -> None:
        pool = RewardPool(RewardSpec(**fields), max_completion_length=8, paths=[str(folder)])
        try:
            await use(pool)
        finally:
            await pool.close()

    asyncio.run(run())


def test_rows_that_raise_take_none_along(folder: Path) -> None:
    texts = [f"raise {i}" if i % 10 == 9 else "a" * i for i in range(40)]

    async def use(pool: RewardPool) -> None:
        groups = [group(*texts[i : i + 8]) for i in range(0, 40, 8)]
        found = await asyncio.gather(*(pool.score(samples) for samples in groups))
        values = [value for scores in found for value in scores.values]
        assert values == [None if i % 10 == 9 else float(i) for i in range(40)]
        failures = {i * 8 + k: r for i, s in enumerate(found) for k, r in s.failures.items()}
        assert failures == {i: f"ValueError: no score for raise {i}" for i in (9, 19, 29, 39)}
        assert all(scores.seconds > 0 for scores in found)
        nothing = await pool.score([])
        assert (nothing.values, nothing.failures) == ([], {})

    with_pool(folder, use, f"{USER}:scores", workers=2)


def test_rows_that_hang_are_bounded_and_hold_up_no_others(folder: Path) -> None:
    order: list[str] = []

    async def use(pool: RewardPool) -> None:
        async def score(name: str, *texts: str) -> Scores:
            found = await pool.score(group(*texts))
            order.append(name)
            return found

        await score("first", "a")
        hanging, *healthy = await asyncio.gather(
            score("hanging", "hang", "a", "hang", "bb", "hang"),
            *(score("healthy", "a", "bb") for _ in range(5)),
        )
        assert hanging.values == [None, 1, None, None, None]
        assert hanging.failures == {
            0: "took longer than 1 s",
            2: "took longer than 1 s",
            3: "not tried: 2 others of its group ran late",
            4: "not tried: 2 others of its group ran late",
        }
        assert [scores.values for scores in healthy] == [[1, 2]] * 5
        assert order[-1] == "hanging"
        assert (await score("last", "a", "bb")).values == [1, 2]

    with_pool(folder, use, f"{USER}:scores", workers=2, timeout_s=1)


def test_rows_that_end_the_process_take_none_along(folder: Path) -> None:
    async def use(pool: RewardPool) -> None:
        found = await pool.score(group("a", "die", "bb", "leave", "interrupt", "ccc"))
        assert found.values == [1, None, 2, None, None, 3]
        assert list(found.failures) == [1, 3, 4]
        assert (
            found.failures[1] == "its process died: it crashed, ended itself, or ran out of memory"
        )
        assert list((await pool.score(group("die"))).failures) == [0]

    with_pool(folder, use, f"{USER}:scores", workers=1)


def test_coroutines_are_awaited_and_bounded(folder: Path) -> None:
    async def use(pool: RewardPool) -> None:
        found = await pool.score(group("a", "raise", "bb", solution="yes"))
        assert found.values == [2, None, 3]
        assert found.failures == {1: "ValueError: no score for raise"}
        found = await pool.score(group("never"))
        assert found.failures == {0: "took longer than 1 s"}

    with_pool(folder, use, f"{USER}:later", workers=1, timeout_s=1)


def test_processes_are_started_as_they_are_needed(folder: Path) -> None:
    async def use(pool: RewardPool) -> None:
        async def process(seconds: float) -> float | None:
            return (await pool.score(group("a", level=seconds))).values[0]

        first = await process(0)
        assert [await process(0) for _ in range(3)] == [first] * 3
        busy = await asyncio.gather(*(process(1) for _ in range(4)))
        assert first in busy
        assert len(set(busy)) == 2

    with_pool(folder, use, f"{USER}:process", workers=2)


def test_a_score_that_is_cancelled_leaves_the_pool_as_it_was(folder: Path) -> None:
    async def use(pool: RewardPool) -> None:
        await pool.score(group("a"))
        for seconds in (0.3, 0.05):  # while the process scores, and while another starts
            task = asyncio.create_task(pool.score(group("hang")))
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await pool.score(group("a"))).values == [1]

    with_pool(folder, use, f"{USER}:scores", workers=1)


def test_a_pool_that_is_closed_leaves_no_one_waiting(folder: Path) -> None:
    async def use(pool: RewardPool) -> None:
        await pool.score(group("a"))
        tasks = [asyncio.create_task(pool.score(group("hang", "a"))) for _ in range(3)]
        await asyncio.sleep(0.3)
        await pool.close()
        for found in await asyncio.wait_for(asyncio.gather(*tasks), 10):
            assert found.values == [None, None]
            assert list(found.failures) == [0, 1]

    with_pool(folder, use, f"{USER}:scores", workers=1)


def test_a_reward_that_can_not_be_loaded_is_not_tried_again(folder: Path) -> None:
    async def use(pool: RewardPool) -> None:
        found = await pool.score(group("a", "bb"))
        reason = "it can't be loaded: ModuleNotFoundError: No module named 'no_such_module_at_all'"
        assert found.failures == {0: reason, 1: reason}
        again = await pool.score(group("a"))
        assert again.failures == {0: reason}
        assert again.seconds < 0.1

    (folder / "integration_broken.py").write_text("import no_such_module_at_all")
    with_pool(folder, use, "integration_broken:f")


def test_a_reward_without_the_gpus_it_needs_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(pool: RewardPool) -> None:
        found = await asyncio.gather(*(pool.score(group("a")) for _ in range(3)))
        reason = "no process, which needs 1 GPUs, was ready within 0.5 s"
        assert [scores.failures for scores in found] == [{0: reason}] * 3

    monkeypatch.setattr("workloads.rewards.pool._START_S", 0.5)
    with_pool(folder, use, f"{USER}:scores", gpus_per_worker=1, workers=2)


def test_built_ins_bound_themselves(folder: Path) -> None:
    async def use_accuracy(pool: RewardPool) -> None:
        # The first is bounded by an alarm, which needs the process's main thread.
        answers = group(r"\boxed{9^{9^{9^9}}}", "0.5", "0.4", solution="1/2")
        assert (await pool.score(answers)).values == [0, 1, 0]

    async def use_code(pool: RewardPool) -> None:
        programs = group("x = 2", "while True: pass", "x = 3", tests=["assert x == 2"])
        assert (await pool.score(programs)).values == [1, 0, 0]

    with_pool(folder, use_accuracy, "", name="accuracy", timeout_s=30, workers=1)
    with_pool(folder, use_code, "", name="code", params={"timeout_s": 1}, workers=1)


WITHOUT_NAMESPACES = """
import ctypes, pathlib, sys
import pytest
if ctypes.CDLL(None).unshare(0x10000000):
    sys.exit(77)
pathlib.Path("/proc/sys/user/max_user_namespaces").write_text("0")
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_sandbox_holds_without_namespaces() -> None:
    root = Path(__file__).parents[2]
    tests = root / "tests/unit/workloads/rewards/test_sandbox.py"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NAMESPACES, str(tests), "-q", "-p", "no:cacheprovider",
         "-k", "starts or elsewhere or bomb"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this kernel gives no namespaces, so the unit tests ran without")
    assert done.returncode == 0, done.stdout
