"""Notices that nodes were lost under a stage, and that its training does not get on since."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.observed import read_progress
from workloads.context import StageContext

_LOOK_EVERY_S = 5.0
_PATIENCE_S = 60.0


class Losses:
    """Watches one attempt.

    A worker that died with its node fails the attempt. But workers may also wait for ever: for what
    another one does not send any more, or for rows that the node was to read. So when training
    stands still after a loss, its workers are told to end, which fails the attempt; the next one
    takes the nodes that there are.
    """

    def __init__(self, lost_nodes: Callable[[], tuple[str, ...]], context: StageContext) -> None:
        self._lost_nodes = lost_nodes
        self._context = context
        self._looked = time.monotonic()
        self._told: tuple[str, ...] = ()
        self._seen: str | None = None
        self._moved = 0.0

    def look(self) -> None:
        """Tells of new losses, and ends workers that stand still since the last one."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        lost = self._lost_nodes()
        if new := [node for node in lost if node not in self._told]:
            self._context.event("nodes_lost", nodes=new)
            self._context.note(f"the cluster lost {', '.join(new)}")
            self._moved = now
        self._told = lost
        progress = read_progress(self._context.attempt.progress_json)
        if progress and progress.updated_at != self._seen:
            self._seen, self._moved = progress.updated_at, now
        if lost and now - self._moved > _PATIENCE_S and self._trains():
            self._context.event("workers_ended", still_s=round(now - self._moved))
            self._context.note(
                f"no progress for {now - self._moved:.0f} s since then: its workers are ended, and "
                "start again from the last checkpoint"
            )
            self._context.attempt.end_request.touch()

    def _trains(self) -> bool:
        attempt = self._context.attempt
        return attempt.worker_log(0).exists() and not attempt.end_request.exists()
