"""Gives the engines the policy's weights, and proves that they arrived.

Every call is collective over the train workers, as ZeRO-3's parts have to be gathered. The first
worker speaks with the engines. An update that breaks off is tried again with those that live.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jobs.errors import ClusterError, UserError
from jobs.spec.rollout import RolloutSpec
from workloads.grpo.carriers import Carrier, Members, shared
from workloads.grpo.samples import Receiver
from workloads.grpo.sync_client import SyncClient

_TRIES = 4


@dataclass
class WeightSync:
    """Keeps the engines' weights those of the policy."""

    carrier: Carrier
    rollout: RolloutSpec
    coordinator: Any
    rank: int
    canary: Sequence[int]
    """The tokens on which engine and trainer are compared."""
    score: Callable[[Sequence[int]], list[float]]
    """The trainer's log-probabilities of each token but the first. Collective."""
    stops: Callable[[], bool]
    """Whether the stage was asked to stop; the first worker's answer counts."""
    differences: list[float] = field(default_factory=list)
    """Mean differences of all canaries, on the first worker."""

    def update(self, version: int) -> float | None:
        """Sends the weights to all engines that lack this version. Returns the seconds it took.

        The wait for engines that are starting is not counted. None where the stage was asked to
        stop meanwhile.

        Raises:
            UserError: if an engine's log-probabilities differ from the trainer's.
            ClusterError: if the update broke off again and again.
        """
        error = ""
        for attempt in range(_TRIES):
            receivers, members = self._receivers(version)
            if members is None:
                return None
            if not members:
                return 0.0
            started = time.monotonic()
            error = self.carrier.carry(version, receivers, members)
            seconds = time.monotonic() - started
            if error:
                self._broke_off(version, members, last_chance=attempt > 0)
                continue
            self._check(version, receivers)
            return seconds
        raise ClusterError(
            f"the engines could not be given weights in {_TRIES} tries; at last: {error}",
            "see the engines' logs beside the attempt's",
        )

    def _ask(self, method: str, *args: Any) -> Any:
        import ray

        return ray.get(getattr(self.coordinator, method).remote(*args))

    def _receivers(self, version: int) -> tuple[list[Receiver], Members | None]:
        """The engines to send to, on the first worker, and who they are, on all.

        Workers meet every second, so that none waits in a collective for longer than it may.
        """
        while True:
            receivers: list[Receiver] | None = None
            stops = False
            if self.rank == 0:
                stops = self.stops()
                receivers = None if stops else self._ask("begin_update", version)
            found = None if receivers is None else [(r.index, r.incarnation) for r in receivers]
            members, stops = shared((found, stops))
            if stops or members is not None:
                return receivers or [], members

    def _broke_off(self, version: int, members: Members, *, last_chance: bool) -> None:
        failed = self.carrier.give_up()
        if self.rank != 0:
            return
        if last_chance:
            failed |= {m: "a weight update broke off twice" for m in members if m not in failed}
        self._ask("end_update", version, [], failed)
        self._ask("failed_update", [m for m in members if m not in failed])

    def _check(self, version: int, receivers: list[Receiver]) -> None:
        """Compares each engine with the trainer on the canary. Collective."""
        if self.rank == 0:
            self._ask("loaded")
        mine = np.array(self.score(self.canary))
        breach = shared(self._compare(version, receivers, mine) if self.rank == 0 else "")
        if breach:
            raise UserError(
                breach,
                "the policy and the engine compute different models: check that vLLM supports the "
                "model in this precision, or raise rollout.canary_tolerance",
            )

    def _compare(self, version: int, receivers: list[Receiver], mine: np.ndarray) -> str:
        """Puts the engines that agree with the trainer to work. Returns what is wrong with one."""
        tolerance = self.rollout.canary_tolerance
        assert tolerance is not None
        client = SyncClient(receivers, 1, self.rollout.sync_timeout_s)
        calls = {r.handle.score.remote(list(self.canary)): r for r in receivers}
        answers, errors = client.collect(calls, "scoring")
        if len(errors) > len(client.failed):
            return f"the canary can't be scored: {'; '.join(errors)}"
        for receiver, theirs in answers:
            difference = float(np.abs(mine - np.array(theirs)).mean())
            self.differences.append(difference)
            if not difference <= tolerance:
                return (
                    f"after a weight update, log-probabilities of engine {receiver.index} differ "
                    f"from the trainer's by {difference:.2g} in the mean, more than {tolerance:g}"
                )
        well = [(receiver.index, receiver.incarnation) for receiver, _ in answers]
        self._ask("end_update", version, well, client.failed)
        return ""
