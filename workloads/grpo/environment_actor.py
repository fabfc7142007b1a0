"""The actor in which environments run: one for each completion that is under way."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.spec.environment import EnvironmentSpec
from workloads.data.rows import Message
from workloads.environments import Environment, Step, load_environment

_THREADS = 64


class EnvironmentActor:
    """Keeps user code out of the coordinator's process and event loop."""

    def __init__(self, spec: EnvironmentSpec, paths: Sequence[str]) -> None:
        """Finds the environment's class; `paths` are where the user's modules are."""
        self._make: Callable[[], Environment] = load_environment(spec, paths)
        self._live: dict[str, Environment] = {}
        # Enough for steps that wait for something else; Python's own pool has few threads.
        self._threads = ThreadPoolExecutor(_THREADS)

    async def reset(
        self, name: str, prompt: list[Message], columns: Mapping[str, Any]
    ) -> list[Message]:
        """Makes an environment of this name. Returns the messages that it starts with."""
        environment = self._live[name] = await self._called(self._make)
        messages: list[Message] = await self._called(environment.reset, prompt, columns)
        return messages

    async def step(self, name: str, messages: list[Message]) -> Step:
        """What the environment says to the model's last turn."""
        answer = await self._called(self._live[name].step, messages)
        return Step(*answer)

    async def close(self, name: str) -> None:
        """Forgets an environment."""
        self._live.pop(name, None)

    async def _called(self, method: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(method):
            return await method(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, method, *args)


def start_environments(spec: EnvironmentSpec, paths: Sequence[str]) -> Any:
    """The actor's handle."""
    import ray

    actor = ray.remote(EnvironmentActor)
    return actor.options(num_cpus=0, max_concurrency=1000, max_restarts=-1).remote(
        spec, list(paths)
    )
