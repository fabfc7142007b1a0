"""The processes that score completions by one reward, started as they are needed.

A call to a process has a group's completions and the reward's `timeout_s`. One that fails is
followed by a call for each of the completions, so that one of them does not take its group along
(a reward that compares the completions of a group then sees one at a time):

    the reward raises        the process goes on
    the process dies         another is started
    the time is up           the process is killed, another is started; two such calls for single
                             completions are the most that a group gets

Whatever the reward does, `score` returns: what could not be scored has a reason instead of a value.
A group holds one process until it is done, so groups that fail leave the others to the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.spec.rewards import RewardSpec
from workloads.rewards.samples import Sample, Scores

_START_S = 120.0
_START_MODEL_S = 600.0
"""Seconds that a process may take to start and to load its reward."""

_MOST_LATE = 2
"""Single completions of a group that may run out of time before its others are given up."""


@dataclass(frozen=True)
class _Failed:
    """A call that brought no scores."""

    reason: str
    late: bool
    """Whether it took all the time that it had."""


class RewardPool:
    """Scores completions by one reward. For use within one event loop."""

    def __init__(
        self,
        spec: RewardSpec,
        *,
        max_completion_length: int,
        paths: Sequence[str],
        model_folder: str | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            spec: the reward.
            max_completion_length: the most tokens of a completion.
            paths: folders that the user's module may lie in.
            model_folder: the folder of the reward model, where the reward is one.
        """
        self._timeout_s = spec.timeout_s
        arguments = (spec, max_completion_length, tuple(paths), model_folder)
        self._workers = {_Worker(*arguments) for _ in range(spec.workers or 1)}
        # Last in, first out: those that run are taken before those that were not started yet.
        # None stands on top once there is none to wait for.
        self._free: asyncio.LifoQueue[_Worker | None] = asyncio.LifoQueue()
        for worker in self._workers:
            self._free.put_nowait(worker)
        self._has_loaded = False
        self._ended: str | None = None

    async def warm_up(self) -> None:
        """Has a first process load the reward, ahead of the first call."""
        if worker := await self._loaded_worker():
            self._give_back(worker)

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """The scores of a group's completions. It waits while all processes are busy.

        A reward that no process can load is not tried again: every score then fails.
        """
        began = time.monotonic()
        values: list[float | None] = [None] * len(samples)
        failures: dict[int, str] = {}
        worker = await self._loaded_worker() if samples else None
        if worker is None:
            failures = {index: str(self._ended) for index in range(len(samples))}
            return Scores(values, failures, time.monotonic() - began)
        try:
            found = await worker.score(samples, self._timeout_s)
            if isinstance(found, Scores):
                values, failures = found.values, found.failures
            elif len(samples) == 1:
                failures = {0: found.reason}
            else:
                values, failures = await self._score_alone(worker, samples)
        finally:
            self._give_back(worker)
        return Scores(values, failures, time.monotonic() - began)

    async def close(self) -> None:
        """Ends all processes. Calls under way return, with failures for what was not scored."""
        self._end("the rewards were closed")
        for worker in self._workers:
            worker.kill()

    async def _score_alone(
        self, worker: _Worker, samples: Sequence[Sample]
    ) -> tuple[list[float | None], dict[int, str]]:
        values: list[float | None] = [None] * len(samples)
        failures: dict[int, str] = {}
        late = 0
        for index, sample in enumerate(samples):
            if self._ended or late == _MOST_LATE:
                failures[index] = self._ended or f"not tried: {late} others of its group ran late"
                continue
            found = await worker.score([sample], self._timeout_s)
            if isinstance(found, _Failed):
                failures[index] = found.reason
                late += found.late
            elif found.failures:
                failures[index] = found.failures[0]
            else:
                values[index] = found.values[0]
        return values, failures

    async def _loaded_worker(self) -> _Worker | None:
        """A free worker that has loaded its reward; None where the pool has come to its end."""
        while worker := await self._free.get():
            try:
                failed = await worker.load()
            except BaseException:
                self._give_back(worker)
                raise
            if failed is None:
                self._has_loaded = True
                return worker
            self._drop(worker, failed)
        self._free.put_nowait(None)
        return None

    def _drop(self, worker: _Worker, failed: _Failed) -> None:
        """Goes on without a worker that does not start, such as for want of GPUs.

        Where no worker has loaded the reward yet, and this one found that it can't be, none will.
        """
        self._workers.discard(worker)
        if not self._workers or not (self._has_loaded or failed.late):
            self._end(failed.reason)

    def _give_back(self, worker: _Worker) -> None:
        if self._ended:
            worker.kill()
        else:
            self._free.put_nowait(worker)

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._free.put_nowait(None)


class _Worker:
    """A process with the reward, or the place of one that is not there yet or any more."""

    def __init__(
        self,
        spec: RewardSpec,
        max_completion_length: int,
        paths: Sequence[str],
        model_folder: str | None,
    ) -> None:
        self._arguments = (spec, max_completion_length, paths, model_folder)
        self._gpus = spec.gpus_per_worker
        self._start_s = _START_MODEL_S if spec.model else _START_S
        self._actor: Any = None

    async def load(self) -> _Failed | None:
        """Has a process load the reward, unless one has. Returns why none can, or None."""
        if self._actor is not None:
            return None
        import ray
        from ray.exceptions import RayError

        from workloads.rewards.worker import RewardActor

        options = {"num_cpus": 0, "num_gpus": self._gpus, "max_restarts": 0}
        self._actor = ray.remote(RewardActor).options(**options).remote(*self._arguments)
        try:
            reason = await self._ask("load", self._start_s)
        except TimeoutError:
            needs = f", which needs {self._gpus} GPUs," if self._gpus else ""
            return _Failed(f"no process{needs} was ready within {self._start_s:g} s", late=True)
        except RayError as error:
            reason = _described(error)
        if not reason:
            return None
        self.kill()
        return _Failed(f"it can't be loaded: {reason}", late=False)

    async def score(self, samples: Sequence[Sample], timeout_s: float) -> Scores | _Failed:
        """Has the process score samples; starts one first where there is none."""
        if failed := await self.load():
            return _Failed(failed.reason, late=True)
        from ray.exceptions import RayError

        try:
            found: Scores | str = await self._ask("score", timeout_s, list(samples))
        except TimeoutError:
            return _Failed(f"took longer than {timeout_s:g} s", late=True)
        except RayError as error:
            return _Failed(_described(error), late=False)
        return _Failed(found, late=False) if isinstance(found, str) else found

    async def _ask(self, method: str, timeout_s: float, *arguments: Any) -> Any:
        """Calls a method of the actor, which is killed unless the answer comes in time."""
        try:
            reference = getattr(self._actor, method).remote(*arguments)
            return await asyncio.wait_for(reference, timeout_s)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the process, if there is one. Another is started when it is needed."""
        if self._actor is not None:
            import ray

            ray.kill(self._actor)
            self._actor = None


def _described(error: Exception) -> str:
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, RayActorError | OutOfMemoryError):
        return "its process died: it crashed, ended itself, or ran out of memory"
    return f"{type(error).__name__}: {error}".splitlines()[0]
