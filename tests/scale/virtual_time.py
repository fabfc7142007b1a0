"""An event loop whose clock jumps to the next timer, so that hours pass in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Jump(selectors.SelectSelector):
    """Instead of waiting, moves the clock on."""

    def __init__(self, advance: Callable[[float | None], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Simulated seconds. Work for threads is done at once, in this one."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jump(self._advance))

    def time(self) -> float:
        """Simulated seconds since the start."""
        return self._now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        """Calls the function now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is whoever awaits it that is told
            future.set_exception(error)
        return future

    def _advance(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            raise RuntimeError("every task waits, and nothing will happen")
        self._now_s += timeout_s


def simulate(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs to the end in simulated time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
