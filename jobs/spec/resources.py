"""What a stage asks of the cluster."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt

from jobs.spec.fields import Spec


class ResourcesSpec(Spec):
    """The workers of a stage, all alike. Changing them does not change the mathematics."""

    workers: int = Field(default=1, ge=1, le=100_000)
    """Processes that train together."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """GPUs of each worker: one, or none to run on CPUs."""
    cpus_per_worker: NonNegativeInt | None = None
    """CPU cores of each worker, all of which it uses. When absent: an equal share of a local
    machine's cores, or 4 on a cluster."""
