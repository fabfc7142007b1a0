"""What a stage asks of the cluster."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, model_validator

from jobs.spec.fields import Spec


class ResourcesSpec(Spec):
    """The workers of a stage, all alike. Changing them does not change the mathematics."""

    workers: int = Field(default=1, ge=1, le=100_000)
    """Processes that train together."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1)
    """GPUs of each worker: one, or none to run on CPUs. A part of one, such as 0.5, lets several
    trials of a sweep share a GPU; their memory is not kept apart."""
    cpus_per_worker: NonNegativeInt | None = None
    """CPU cores of each worker, all of which it uses. When absent: an equal share of a local
    machine's cores, or 4 on a cluster."""

    @model_validator(mode="after")
    def _parts_of_gpus_are_for_lone_workers(self) -> ResourcesSpec:
        if 0 < self.gpus_per_worker < 1 and self.workers > 1:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g} would put several of the {self.workers} "
                "workers on one GPU, where NCCL does not connect them; set it to 1, or workers to 1"
            )
        return self
