"""A Kubernetes cluster with KubeRay's operator, as a profile describes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from jobs.spec.fields import ByteSize, Spec

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A name that Kubernetes takes: lower case, digits and -."""


def _by_digest(image: str) -> str:
    if not image.strip() or "@sha256:" not in image:
        raise ValueError(
            f"image {image!r} has no digest, so it may be another one tomorrow; "
            "write NAME@sha256:DIGEST, or set allow_image_tag: true for a cluster to try things on"
        )
    return image


class TolerationSpec(Spec):
    """A taint that pods may run beside. The words are Kubernetes' own."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class HeadSpec(Spec):
    """The pod of Ray's head and of the run's driver. Nothing else runs there."""

    cpus: PositiveInt = 2
    memory: ByteSize = "8GB"


class WorkersSpec(Spec):
    """The pods that compute, all alike."""

    cpus: PositiveInt = 4
    """CPU cores of each."""
    memory: ByteSize = "16GB"
    """Memory of each; what it asks for is what it gets at most."""
    gpus: NonNegativeInt = 0
    """GPUs of each."""
    gpu_resource: str = "nvidia.com/gpu"
    """What Kubernetes calls such a GPU."""
    accelerator_type: str | None = None
    """What Ray calls such a GPU, for example H100."""
    shared_memory: ByteSize | None = None
    """Size of /dev/shm, where Ray keeps objects. When absent: 30% of the memory."""
    min: NonNegativeInt = 0
    """The fewest pods. Fewer than max lets KubeRay's autoscaler add and take away pods."""
    max: PositiveInt = 1
    """The most pods; a job that needs more is refused at `plan`."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that these pods go to."""
    tolerations: tuple[TolerationSpec, ...] = ()

    @model_validator(mode="after")
    def _max_is_most(self) -> WorkersSpec:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, which is less than min, {self.min}")
        return self


class KubernetesSpec(Spec):
    """Where and how pods run."""

    context: str | None = None
    """kubectl's context; its current one when absent."""
    namespace: DnsLabel = "default"
    image: str = Field(examples=["registry.example/raysmith@sha256:…"])
    """The image of all pods, by digest."""
    allow_image_tag: bool = False
    """Takes an image by its tag, which may come to mean another one."""
    queue: DnsLabel | None = None
    """Kueue's LocalQueue, which starts runs when there is room."""
    head: HeadSpec = HeadSpec()
    workers: WorkersSpec = WorkersSpec()

    @model_validator(mode="after")
    def _image_is_pinned(self) -> KubernetesSpec:
        if not self.allow_image_tag:
            _by_digest(self.image)
        return self
