"""Whether nodes reach one another as training does: a collective sum over one process of each."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from workloads.network_interface import use_interface_towards

_ELEMENTS = 4 * 2**20
"""Of the tensor that is summed: 16 MiB."""
_ROUNDS = 3


@dataclass(frozen=True)
class Reach:
    """What a process saw of the others."""

    error: str | None
    seconds: float = 0.0
    """For one sum."""
    bytes_per_s: float = 0.0
    """The tensor's bytes by the time of one sum."""


class Peer:
    """One process on a node. A Ray actor."""

    def address(self) -> tuple[str, int]:
        """Where the others find this process, should it be the first."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def sum(
        self, backend: str, master: tuple[str, int], rank: int, size: int, timeout_s: float
    ) -> Reach:
        """Sums a tensor with the others, by gloo or nccl."""
        import torch
        import torch.distributed as dist

        limit = timedelta(seconds=timeout_s)
        use_interface_towards(master[0])
        try:
            dist.init_process_group(
                backend,
                init_method=f"tcp://{master[0]}:{master[1]}",
                rank=rank,
                world_size=size,
                timeout=limit,
            )
            device = "cuda" if backend == "nccl" else "cpu"
            tensor = torch.ones(_ELEMENTS, device=device)
            dist.all_reduce(tensor)
            started = time.perf_counter()
            for _ in range(_ROUNDS):
                tensor.fill_(1)
                dist.all_reduce(tensor)
            total = float(tensor[0])
            seconds = (time.perf_counter() - started) / _ROUNDS
            dist.destroy_process_group()
        except (RuntimeError, ValueError, OSError) as error:
            return Reach(str(error).splitlines()[0])
        if total != size:
            return Reach(f"the sum over {size} processes came to {total:g}")
        return Reach(None, seconds, _ELEMENTS * 4 / seconds)
