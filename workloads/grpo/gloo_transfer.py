"""A weight-transfer backend for vLLM on CPUs, over gloo: the engine's side and the trainer's.

vLLM brings `nccl` and `ipc`, which need GPUs. This one has the same lifecycle: a group of the
trainer (rank 0) and the engines is made, the trainer broadcasts, each engine reloads its layers.
Weights travel in buckets, cut alike on both sides. Unlike NCCL's, a gloo group notices at once when
a member dies, and gives up on one that hangs when its time is over.

Importing this module registers the backend with vLLM, which has no other way to name one; vLLM's
workers import it as their extension.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)

from workloads.network_interface import use_interface_towards

BACKEND = "gloo"
BUCKET_BYTES = 64 * 2**20
_LEFT = "left"
_POLL_S = 0.002


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """What an engine needs to join the group. Its first worker has rank `rank_offset`."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    timeout_s: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The weights that will come, in this order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """What the trainer needs to open the group; the port is free on this machine."""

    backend: ClassVar[str] = BACKEND

    master_address: str
    master_port: int
    world_size: int
    timeout_s: float


class _Group:
    """The trainer, which is rank 0, and the engines' workers."""

    def __init__(
        self, address: str, port: int, rank: int, world_size: int, timeout_s: float
    ) -> None:
        """Returns when all members have joined. No broadcast may take longer than `timeout_s`."""
        timeout = timedelta(seconds=timeout_s)
        use_interface_towards(address)
        self._store = TCPStore(address, port, world_size, rank == 0, timeout=timeout)
        members = PrefixStore("weights", self._store)
        self._gloo: Any = ProcessGroupGloo(members, rank, world_size, timeout)

    def broadcast(self, tensor: Tensor) -> None:
        """Makes everyone's tensor the trainer's.

        Raises:
            RuntimeError: if a member died, hung or left.
        """
        work = self._gloo.broadcast(tensor, 0)
        # gloo does not tell who has a part of a tensor that no more of it will come.
        while not work.is_completed():
            if self._store.check([_LEFT]):
                raise RuntimeError("a member has left the group")
            time.sleep(_POLL_S)
        work.wait()

    def leave(self) -> None:
        """Ends the group for all its members."""
        with suppress(RuntimeError):  # The trainer, which has the store, may be gone.
            self._store.set(_LEFT, "")
        # A group that is let go of waits until what is under way has timed out.
        held = [self._gloo]
        del self._gloo
        threading.Thread(target=held.clear, daemon=True).start()


def buckets(sizes: Sequence[int], limit: int = BUCKET_BYTES) -> Iterator[slice]:
    """Cuts tensors of `sizes` bytes into runs of at most `limit` bytes, or of one larger tensor."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


class GlooEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The engine's side. After an error it has left the group, so that the trainer learns of it."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: _Group | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Joins the group; returns when all members have."""
        parallel = self.parallel_config
        rank = init_info.rank_offset + parallel.data_parallel_index * parallel.world_size
        self._group = _Group(
            init_info.master_address,
            init_info.master_port,
            rank + parallel.rank,
            init_info.world_size,
            init_info.timeout_s,
        )

    def start_weight_update(self) -> None:
        """Makes the layers ready to be loaded anew."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receives and loads all weights."""
        if self._group is None:
            raise RuntimeError("the engine has joined no group to receive weights from")
        try:
            self.model.load_weights(_received(self._group, update_info))
        except BaseException:
            self.shutdown()
            raise

    def finish_weight_update(self) -> None:
        """Puts the new weights to use."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        _repack_tied_heads(self.model)

    def shutdown(self) -> None:
        """Leaves the group."""
        if self._group:
            self._group.leave()
            self._group = None


def _received(group: _Group, info: GlooUpdateInfo) -> Iterator[tuple[str, Tensor]]:
    dtypes = [getattr(torch, name) for name in info.dtype_names]
    sizes = [prod(shape) * dtype.itemsize for shape, dtype in zip(info.shapes, dtypes, strict=True)]
    for part in buckets(sizes):
        flat = torch.empty(sum(sizes[part]), dtype=torch.uint8)
        group.broadcast(flat)
        tensors = flat.split(sizes[part])
        for name, dtype, shape, tensor in zip(
            info.names[part], dtypes[part], info.shapes[part], tensors, strict=True
        ):
            yield name, tensor.view(dtype).view(shape)


def _repack_tied_heads(model: nn.Module) -> None:
    """Makes a head that shares the embedding's weights see the new ones.

    On CPUs vLLM 0.32 gives such a head a packed copy of the embedding when the model is loaded. A
    checkpoint has no weights for it, so a reload leaves the old copy in place, without an error.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


class GlooTrainer(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The trainer's side: rank 0 of the train workers sends, the others take part in gathering."""

    init_info_cls = GlooTrainerInitInfo
    _group: _Group | None = None

    @classmethod
    def trainer_init(
        cls,
        init_info: GlooTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        """Opens the group and waits for the engines to join."""
        trainer = cls(client=client, source=source, is_sender=init_info.is_sender)
        if not trainer.is_sender:
            return trainer
        theirs = GlooInitInfo(
            init_info.master_address,
            init_info.master_port,
            1,
            init_info.world_size,
            init_info.timeout_s,
        )
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(client.init_weight_transfer_engine, asdict(theirs))
            trainer._group = _Group(
                init_info.master_address,
                init_info.master_port,
                0,
                init_info.world_size,
                init_info.timeout_s,
            )
            joined.result()
        return trainer

    def send_weights(self) -> None:
        """Sends all weights. Collective over the train workers.

        Raises:
            RuntimeError: if an engine died, hung or failed; all weights were gathered all the same,
                so that the other train workers do not wait.
        """
        assert self.source is not None
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        meta = self.source.metadata()
        info = GlooUpdateInfo(
            [m.name for m in meta],
            [str(m.dtype).removeprefix("torch.") for m in meta],
            [list(m.shape) for m in meta],
        )
        assert self._group is not None
        group, tensors = self._group, (tensor for _, tensor in self.source)
        # Its end waits for the engines' answers, which say who of them failed.
        with ThreadPoolExecutor(1) as pool:
            try:
                self.client.start_weight_update()
                received = pool.submit(self.client.update_weights, asdict(info))
                for part in buckets([prod(m.shape) * m.dtype.itemsize for m in meta]):
                    flat = [next(tensors).reshape(-1).view(torch.uint8) for _ in meta[part]]
                    group.broadcast(torch.cat(flat))
                received.result()
                self.client.finish_weight_update()
            except BaseException:
                self.shutdown()
                raise
            finally:
                for _ in tensors:
                    pass

    def shutdown(self) -> None:
        """Leaves the group, which ends the waiting of its other members."""
        if self._group:
            self._group.leave()
            self._group = None


class WorkerExtension:
    """Nothing by itself: naming it has vLLM's workers import this module."""


def _register() -> None:
    # Two imports under one name can't be: a second registration is an error in vLLM.
    WeightTransferEngineFactory.register_engine(BACKEND, GlooEngine)
    WeightTransferTrainerFactory.register_engine(BACKEND, GlooTrainer)


_register()
