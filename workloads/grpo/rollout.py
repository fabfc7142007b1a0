"""The actor around one vLLM engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.engine import EngineSettings
from workloads.grpo.engines import Engine, Generation, Request
from workloads.process_log import print_to


@dataclass(frozen=True)
class DataFailure:
    """A request that fails wherever it is asked: the prompt is at fault, and not an engine."""

    reason: str


class RolloutActor:
    """One engine of the pool. Until `start` has returned it answers nothing but pings."""

    def __init__(self, settings: EngineSettings, log: Path) -> None:
        """`log` is the file for what this process prints."""
        print_to(log)
        self._settings = settings
        self._engine: Engine

    async def start(self) -> int:
        """Loads the model. Returns this process's id."""
        from workloads.grpo import engines

        if self._settings.in_process:
            self._engine = await asyncio.to_thread(engines.start_engine, self._settings)
        else:
            self._engine = engines.start_engine(self._settings)
        return os.getpid()

    async def ping(self) -> bool:
        """Answers at once, whatever the engine does."""
        return True

    async def generate(self, request: Request, timeout_s: float) -> Generation | DataFailure:
        """Writes one completion. What the engine says of the prompt is data, all else is raised.

        Raises:
            TimeoutError: if it takes longer than the deadline; the engine then gives it up.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._engine.generate(request)
        except ValueError as error:
            return DataFailure(f"{type(error).__name__}: {error}")

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-probability of each token but the first."""
        return await self._engine.score(token_ids)

    async def call(self, method: str, *args: Any) -> Any:
        """Calls a method of vLLM between two steps."""
        return await self._engine.call(method, *args)

    async def load_adapter(self, path: str, version: int) -> None:
        """From now on completions are written with the adapter in this folder."""
        await self._engine.load_adapter(path, version)
