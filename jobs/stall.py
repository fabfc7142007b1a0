"""Watches an attempt: tells of nodes that were lost under it, and ends it when it stands still."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread

from jobs.errors import Stalled
from jobs.observed import read_progress
from jobs.spec.fields import duration_s
from jobs.view.status import duration
from workloads import load_function
from workloads.advance import last_sign
from workloads.context import StageContext

_LOOK_EVERY_S = 5.0
_PATIENCE_S = 60.0
"""How long training may stand still once a node is lost."""
_SET_UP_S = 600.0
"""What a stage may take at least before its first step: large models load slowly."""
_END_S = 15.0
"""How long workers may take to end when they are asked to."""
_KILL_S = 60.0
"""How long an attempt may take to fail after its workers were killed."""
_KILL = "workloads.train.ending:kill_workers"


class Watch:
    """Watches one attempt, from outside of the thread in which it works.

    A worker that died fails the attempt by itself. But workers may also wait for ever: for what
    another one does not send any more, for rows that a lost node was to read, for a disk. So when
    nothing is written for too long, the workers are told to end, and killed where they do not. That
    fails the attempt; the next one goes on from the newest checkpoint.
    """

    def __init__(
        self,
        lost_nodes: Callable[[], tuple[str, ...]],
        context: StageContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lost_nodes = lost_nodes
        self._context = context
        self._clock = clock
        self._timeout_s = duration_s(context.stage.spec.stall_timeout)
        self._every_s = min(max(self._timeout_s / 60, 0.1), 30.0)
        self._moved = self._lost_at = self._looked = self._looked_for_losses = clock()
        self._told: tuple[str, ...] = ()
        self._sign = 0.0
        self._ended_at: float | None = None
        self._killed_at: float | None = None
        self.stalled: Stalled | None = None
        """Set once the attempt has stood still for too long."""

    def look(self) -> bool:
        """Tells of losses, and ends what stands still. Returns false once nothing can end it."""
        now = self._clock()
        if self._ended_at is not None:
            return self._see_to_the_end(now)
        if now - self._looked_for_losses >= min(_LOOK_EVERY_S, self._every_s * 10):
            self._looked_for_losses = now
            self._look_for_losses(now)
        if now - self._looked < self._every_s:
            return True
        self._looked = now
        sign = last_sign(self._context)
        if sign != self._sign:
            self._sign, self._moved = sign, now
        if self._told and self._trains and now - max(self._moved, self._lost_at) > _PATIENCE_S:
            self._end(now, "workers_ended", "since then")
        elif now - self._moved > self._limit_s and not self._serves:
            still = duration(now - self._moved)
            self.stalled = Stalled(
                f"no progress for {still}",
                "see the workers' logs for where they stood; or raise stall_timeout",
            )
            self._end(now, "stalled", "")
            return self._trains
        return True

    def _look_for_losses(self, now: float) -> None:
        lost = self._lost_nodes()
        if new := [node for node in lost if node not in self._told]:
            self._context.event("nodes_lost", nodes=new)
            self._context.note(f"the cluster lost {', '.join(new)}")
            self._lost_at = now
        self._told = lost

    @property
    def _limit_s(self) -> float:
        progress = read_progress(self._context.attempt.progress_json)
        if progress and progress.step is not None:
            return self._timeout_s
        return max(2 * self._timeout_s, _SET_UP_S)

    @property
    def _trains(self) -> bool:
        return self._context.attempt.worker_log(0).exists()

    @property
    def _serves(self) -> bool:
        return self._context.attempt.service_json.exists()

    def _end(self, now: float, event: str, when: str) -> None:
        self._ended_at, still_s = now, round(now - self._moved)
        self._context.event(event, still_s=still_s)
        what = "its workers are ended" if self._trains else "it is given up"
        text = f"no progress for {still_s} s {when}".rstrip()
        self._context.note(f"{text}: {what}")
        self._context.attempt.end_request.touch()

    def _see_to_the_end(self, now: float) -> bool:
        assert self._ended_at is not None
        if self._killed_at is None and now - self._ended_at > _END_S:
            self._killed_at = now
            self._context.note("its workers do not end: they are killed")
            kill = load_function(_KILL)
            Thread(target=kill, args=(self._context.attempt,), name="kill", daemon=True).start()
        return self._killed_at is None or now - self._killed_at < _KILL_S
