"""The engines as the train workers speak with them during a weight update."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workloads.grpo.samples import Receiver


class SyncClient:
    """The engines as vLLM's trainer side sees them. One deadline holds for each call."""

    def __init__(
        self, receivers: Sequence[Receiver], tensor_parallel_size: int, timeout_s: float
    ) -> None:
        """Speaks to these engines, each with so many workers."""
        self._receivers = receivers
        self._workers = tensor_parallel_size
        self._timeout_s = timeout_s
        self.version = 0
        """What the engines call the weights that they are sent next."""
        self.failed: dict[int, str] = {}
        """Engines that died or missed the deadline, and how."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Has each engine join the group; their workers have consecutive ranks from 1."""

        def info(place: int) -> dict[str, Any]:
            rank = {"rank_offset": 1 + place * self._workers} if "rank_offset" in init_info else {}
            return {"init_info": {**init_info, **rank}}

        self._everywhere("init_weight_transfer_engine", info)

    def start_weight_update(self) -> None:
        """Makes each engine ready."""
        self._everywhere("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Has each engine receive; returns when all have."""
        self._everywhere("update_weights", lambda _: {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Puts the weights to use under the new version."""
        self._everywhere("finish_weight_update", lambda _: weight_version or str(self.version))

    def _everywhere(self, method: str, argument: Callable[[int], Any] | None = None) -> None:
        calls = {
            receiver.handle.call.remote(method, *([argument(place)] if argument else [])): receiver
            for place, receiver in enumerate(self._receivers)
        }
        self.answers(calls, method)

    def answers(self, calls: Mapping[Any, Receiver], what: str) -> list[Any]:
        """What the engines answer, in their order.

        Raises:
            RuntimeError: if one failed; `failed` has those that are lost for good.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        deadline = time.monotonic() + self._timeout_s
        results, errors = [], []
        for call, receiver in calls.items():
            try:
                results.append(ray.get(call, timeout=max(deadline - time.monotonic(), 0.01)))
            except GetTimeoutError:
                self.failed[receiver.index] = f"{what} took longer than {self._timeout_s:g} s"
                errors.append(self.failed[receiver.index])
            except RayActorError as error:
                self.failed[receiver.index] = f"it died in {what} ({type(error).__name__})"
                errors.append(self.failed[receiver.index])
            except Exception as error:  # noqa: BLE001 - whatever the engine said
                errors.append(f"engine {receiver.index}, {what}: {error}")
        if errors:
            raise RuntimeError("; ".join(errors))
        return results
