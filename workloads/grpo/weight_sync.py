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

from jobs.errors import RaysmithError, UserError
from jobs.spec.rollout import RolloutSpec
from workloads.grpo.carriers import Carrier, shared
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
    differences: list[float] = field(default_factory=list)
    """Mean differences of all canaries, on the first worker."""

    def update(self, version: int) -> float:
        """Sends the weights to all engines that lack this version. Returns the seconds it took.

        The wait for engines that are starting is not counted.

        Raises:
            UserError: if an engine's log-probabilities differ from the trainer's.
            RaysmithError: if the update broke off again and again.
        """
        error = ""
        for attempt in range(_TRIES):
            receivers = self._receivers(version)
            members = shared([(r.index, r.incarnation) for r in receivers])
            if not members:
                return 0.0
            started = time.monotonic()
            error = self.carrier.carry(version, receivers, members)
            seconds = time.monotonic() - started
            if error:
                self._broke_off(version, members, last_chance=attempt > 0)
                continue
            self._check(receivers)
            if self.rank == 0:
                self._ask("end_update", version, [index for index, _ in members], {})
            return seconds
        raise RaysmithError(
            f"the engines could not be given weights in {_TRIES} tries; at last: {error}",
            "see the engines' logs beside the attempt's",
        )

    def _ask(self, method: str, *args: Any) -> Any:
        import ray

        return ray.get(getattr(self.coordinator, method).remote(*args))

    def _receivers(self, version: int) -> list[Receiver]:
        receivers: list[Receiver] = self._ask("begin_update", version) if self.rank == 0 else []
        return receivers

    def _broke_off(self, version: int, members: Any, *, last_chance: bool) -> None:
        failed = self.carrier.give_up()
        if self.rank != 0:
            return
        indices = [index for index, _ in members]
        if last_chance:
            failed |= {i: "a weight update broke off twice" for i in indices if i not in failed}
        self._ask("end_update", version, [], failed)
        self._ask("failed_update", [i for i in indices if i not in failed])

    def _check(self, receivers: list[Receiver]) -> None:
        """Compares each engine with the trainer on the canary. Collective."""
        mine = np.array(self.score(self.canary))
        breach = ""
        if self.rank == 0:
            breach = self._breach(receivers, mine)
        breach = shared(breach)
        if breach:
            raise UserError(
                breach,
                "the policy and the engine compute different models: check that vLLM supports the "
                "model in this precision, or raise rollout.canary_tolerance",
            )

    def _breach(self, receivers: list[Receiver], mine: np.ndarray) -> str:
        tolerance = self.rollout.canary_tolerance
        assert tolerance is not None
        client = SyncClient(receivers, 1, self.rollout.sync_timeout_s)
        calls = {r.handle.score.remote(list(self.canary)): r for r in receivers}
        try:
            answers = client.answers(calls, "scoring")
        except RuntimeError:
            return ""  # It died since; the fleet finds out when it is asked for completions.
        for receiver, theirs in zip(receivers, answers, strict=True):
            difference = float(np.abs(mine - np.array(theirs)).mean())
            self.differences.append(difference)
            if not difference <= tolerance:
                return (
                    f"after a weight update, log-probabilities of engine {receiver.index} differ "
                    f"from the trainer's by {difference:.2g} in the mean, more than {tolerance:g}"
                )
        return ""
