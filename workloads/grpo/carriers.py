"""What weights travel by: all of them through a group with the engines, or an adapter as a file.

Carrying is collective over the train workers. The first of them speaks with the engines, and learns
what went wrong; the others are told.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from jobs.spec.rollout import RolloutSpec
from workloads.grpo.policy_weights import PolicySource, gathered
from workloads.grpo.samples import Receiver
from workloads.grpo.sync_client import SyncClient
from workloads.train.state import trained_parameters

if TYPE_CHECKING:
    from torch import nn
    from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine

Members = Sequence[tuple[int, int]]
"""Index and incarnation of the engines that take part."""


class Carrier(Protocol):
    """One way to bring weights to engines."""

    def carry(self, version: int, receivers: Sequence[Receiver], members: Members) -> str:
        """Brings the weights to all members. `receivers` are their handles, on the first worker.

        Returns what went wrong, the same on all workers; empty where nothing did.
        """

    def give_up(self) -> dict[tuple[int, int], str]:
        """After an error: lets go of the engines. Returns those that are lost, and how."""


def shared(value: Any) -> Any:
    """The first worker's value, on all workers."""
    box = [value]
    if torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


@dataclass
class FullWeights:
    """All weights, merged, by vLLM's own weight transfer."""

    module: nn.Module
    dtype: torch.dtype
    """Of the engines' weights."""
    rollout: RolloutSpec
    backend: str
    rank: int
    _trainer: TrainerWeightTransferEngine[Any] | None = None
    _client: SyncClient | None = None
    _members: Members = ()

    def carry(self, version: int, receivers: Sequence[Receiver], members: Members) -> str:
        """See `Carrier`."""
        error: str = shared(self._connect(version, receivers, members))
        return error or str(shared(self._send()))

    def give_up(self) -> dict[tuple[int, int], str]:
        """See `Carrier`."""
        self._trainer = None
        return dict(self._client.failed) if self._client else {}

    def _connect(self, version: int, receivers: Sequence[Receiver], members: Members) -> str:
        """Makes the group of these engines, unless it is there."""
        import ray
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        if self._trainer is None or members != self._members:
            if self._trainer is not None:
                self._trainer.shutdown()
            workers, timeout_s = self.rollout.tensor_parallel_size, self.rollout.sync_timeout_s
            self._client = SyncClient(receivers, workers, timeout_s)
            watchdog = self._watchdog()
            address, size = ray.util.get_node_ip_address(), 1 + len(members) * workers
            try:
                self._trainer = WeightTransferTrainerFactory.trainer_init(
                    _init_info(self.backend, self.rank, address, size, timeout_s),
                    client=self._client,
                    source=PolicySource(self.module, self.dtype),
                )
            except (RuntimeError, OSError) as error:
                return f"{type(error).__name__}: {error}"
            finally:
                if watchdog:
                    watchdog.cancel()
            self._members = members
        assert self._client is not None
        self._client.version = version
        return ""

    def _send(self) -> str:
        assert self._trainer is not None
        watchdog = self._watchdog()
        try:
            self._trainer.send_weights()
        except (RuntimeError, OSError) as error:
            if self.rank != 0:
                raise
            if self.backend != "gloo" and torch.distributed.get_world_size() > 1:
                # The others wait in collectives that this worker can't catch up with.
                raise ConnectionError(f"weights could not be sent: {error}") from error
            return f"{type(error).__name__}: {error}"
        finally:
            if watchdog:
                watchdog.cancel()
        return ""

    def _watchdog(self) -> threading.Timer | None:
        """NCCL can't be interrupted: a sender that hangs in it ends its process after a while.

        The stage then goes on from its newest checkpoint, with other engines.
        """
        if self.rank != 0 or self.backend == "gloo":
            return None
        timer = threading.Timer(2 * self.rollout.sync_timeout_s, os._exit, args=(75,))
        timer.daemon = True
        timer.start()
        return timer


@dataclass
class AdapterFiles:
    """The LoRA adapter alone, as a folder that all engines can read; a new one for each version."""

    module: Any
    rollout: RolloutSpec
    rank: int
    folder: Path
    _client: SyncClient | None = None

    def carry(self, version: int, receivers: Sequence[Receiver], members: Members) -> str:  # noqa: ARG002
        """See `Carrier`."""
        weights: dict[str, torch.Tensor] = {}
        for name, parameter in trained_parameters(self.module):
            with gathered([parameter]):
                if self.rank == 0:
                    weights[name] = parameter.detach().cpu().clone()
        return str(shared(self._hand_over(version, receivers, weights) if self.rank == 0 else ""))

    def give_up(self) -> dict[tuple[int, int], str]:
        """See `Carrier`."""
        return dict(self._client.failed) if self._client else {}

    def _hand_over(
        self, version: int, receivers: Sequence[Receiver], weights: dict[str, torch.Tensor]
    ) -> str:
        path = self.folder / f"v{version}"
        self.module.save_pretrained(path, state_dict=weights)
        # Completions that are under way may still need the adapters before.
        oldest = version - self.rollout.max_staleness - 1
        shutil.rmtree(self.folder / f"v{oldest - 1}", ignore_errors=True)
        self._client = SyncClient(receivers, 1, self.rollout.sync_timeout_s)
        calls = {r.handle.load_adapter.remote(str(path), version): r for r in receivers}
        try:
            self._client.answers(calls, "loading an adapter")
        except RuntimeError as error:
            return str(error)
        return ""


def free_port() -> int:
    """A port that nothing on this machine listens to at present."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _init_info(backend: str, rank: int, address: str, world_size: int, timeout_s: float) -> Any:
    port = free_port() if rank == 0 else 0
    if backend == "gloo":
        from workloads.grpo.gloo_transfer import GlooTrainerInitInfo

        return GlooTrainerInitInfo(address, port, world_size, timeout_s, rank=rank)
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=rank, packed=True)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(address, port, world_size, rank=rank)
