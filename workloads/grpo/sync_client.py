"""The engines as the train workers speak with them during a weight update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workloads.grpo.samples import Receiver

_GRACE_S = 10.0


class SyncClient:
    """The engines as vLLM's trainer side sees them. One deadline holds for each call."""

    def __init__(
        self, receivers: Sequence[Receiver], tensor_parallel_size: int, timeout_s: float
    ) -> None:
        """Speaks to these engines, each with so many workers."""
        self._receivers = receivers
        self._workers = tensor_parallel_size
        # The group gives up first, so that engines that wait for a dead one can say so.
        self._timeout_s = timeout_s + _GRACE_S
        self.version = 0
        """What the engines call the weights that they are sent next."""
        self.failed: dict[tuple[int, int], str] = {}
        """Engines, by place and incarnation, that died or missed the deadline, and how."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Has each engine join the group; their workers have consecutive ranks from 1."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        def request(place: int) -> WeightTransferInitRequest:
            rank = {"rank_offset": 1 + place * self._workers} if "rank_offset" in init_info else {}
            return WeightTransferInitRequest({**init_info, **rank})

        self._everywhere("init_weight_transfer_engine", request)

    def start_weight_update(self) -> None:
        """Makes each engine ready."""
        self._everywhere("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        """Has each engine receive; returns when all have."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        self._everywhere("update_weights", lambda _: WeightTransferUpdateRequest(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Puts the weights to use under the new version."""
        self._everywhere("finish_weight_update", lambda _: weight_version or str(self.version))

    def _everywhere(self, method: str, argument: Callable[[int], Any] | None = None) -> None:
        calls = {
            receiver.handle.call.remote(method, *([argument(place)] if argument else [])): receiver
            for place, receiver in enumerate(self._receivers)
        }
        self.answers(calls, method)

    def answers(self, calls: Mapping[Any, Receiver], what: str) -> None:
        """Waits for all calls.

        Raises:
            RuntimeError: if one failed; `failed` has those that are lost for good.
        """
        _, errors = self.collect(calls, what)
        if errors:
            raise RuntimeError("; ".join(errors))

    def collect(
        self, calls: Mapping[Any, Receiver], what: str
    ) -> tuple[list[tuple[Receiver, Any]], list[str]]:
        """What the engines answer until the deadline, and what is wrong with those that don't."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError

        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=self._timeout_s)
        finished = set(done)
        results, errors = [], []
        for call, receiver in calls.items():
            key = (receiver.index, receiver.incarnation)
            if call not in finished:
                self.failed[key] = f"{what} took longer than {self._timeout_s:g} s"
                errors.append(self.failed[key])
                continue
            try:
                results.append((receiver, ray.get(call)))
            except (RayActorError, OutOfMemoryError) as error:
                self.failed[key] = f"it died in {what} ({type(error).__name__})"
                errors.append(self.failed[key])
            except Exception as error:  # noqa: BLE001 - whatever the engine said
                errors.append(f"engine {receiver.index}, {what}: {error}")
        return results, errors
