"""How train workers are connected: Ray Train's way, by the interface that Ray knows nodes by."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig

from workloads.network_interface import use_interface_towards

_TIMEOUT_S = 600
"""How long a collective call may take. Workers wait that long for one whose network is cut."""


def torch_config(*, gpu: bool) -> TorchConfig:
    """NCCL between GPUs, gloo between CPUs."""
    return _OwnInterface(backend="nccl" if gpu else "gloo", timeout_s=_TIMEOUT_S)


class _OwnInterface(TorchConfig):
    @property
    def backend_cls(self) -> type:
        base: Any = super().backend_cls

        class Connected(base):
            """Names the interface on each worker, before they connect."""

            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(_name_interface)
                super().on_start(worker_group, backend_config)

        return Connected


def _name_interface() -> None:
    import ray

    use_interface_towards(ray.util.get_node_ip_address())
