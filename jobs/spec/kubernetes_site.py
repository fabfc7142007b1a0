"""A Kubernetes cluster with KubeRay's operator, as a profile describes it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from jobs.spec.fields import ByteSize, Duration, Spec

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A name that Kubernetes takes: lower case, digits and -."""


KubeRayVersion = Literal["1.5", "1.6", "1.7"]
"""Releases of KubeRay's operator; of 1.5, it takes 1.5.1, which knows token authentication."""

SecretKey = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[-._A-Za-z0-9]{1,253}$")
]
"""A key of a Kubernetes Secret, written NAME/KEY."""
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable."""

_TEMPLATE_KEYS = re.compile(r"^(ray\.io|app\.kubernetes\.io|kueue\.x-k8s\.io)/")


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
    """The taint's key; any when absent, with `operator: Exists`."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""
    value: str | None = None
    """The taint's value, with `operator: Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; any when absent."""


class HeadSpec(Spec):
    """The pod of Ray's head and of the run's driver. Nothing else runs there."""

    cpus: PositiveInt = 2
    """CPU cores of the pod."""
    memory: ByteSize = "8GB"
    """Memory of the pod."""


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
    """Taints that these pods may run beside."""

    @model_validator(mode="after")
    def _max_is_most(self) -> WorkersSpec:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, which is less than min, {self.min}")
        return self


class StorageClaimSpec(Spec):
    """A PersistentVolumeClaim that all pods mount. It must allow ReadWriteMany where pods lie on
    several nodes."""

    claim: DnsLabel
    """Its name; it must exist."""
    mount_path: Annotated[str, Field(pattern=r"^/[^\s:]*$")] = "/mnt/raysmith"
    """Where pods see it. The profile's `storage` must lie in it."""


class FaultToleranceSpec(Spec):
    """Keeps the state of Ray's head, so that a service outlives its head's pod."""

    backend: Literal["redis", "rocksdb"]
    """rocksdb keeps it on a volume of the head's: KubeRay 1.7, with its feature gate
    GCSFaultToleranceEmbeddedStorage."""
    redis_address: str | None = Field(default=None, examples=["redis:6379"])
    """Where Redis is; with `redis` only."""
    redis_auth_from: SecretKey | None = None
    """Its password, in a Secret."""
    size: ByteSize = "1GB"
    """Size of the volume; with `rocksdb` only."""

    @model_validator(mode="after")
    def _is_whole(self) -> FaultToleranceSpec:
        if (self.backend == "redis") != (self.redis_address is not None):
            raise ValueError("backend redis and redis_address go together: give both or neither")
        if self.redis_auth_from and self.backend != "redis":
            raise ValueError("redis_auth_from is of no use without backend: redis")
        return self


class NetworkSpec(Spec):
    """Who may reach the pods, and whom they may reach."""

    policy: bool = True
    """Whether a NetworkPolicy is made. Without one, all pods of the cluster reach Ray."""
    operator_namespace: DnsLabel = "kuberay-system"
    """Where KubeRay's operator runs: it asks the head how jobs stand."""
    egress: Literal["any", "cluster"] = "any"
    """`cluster` lets pods reach one another and DNS alone: models and data must then be in the
    image or the storage."""


class KubernetesSpec(Spec):
    """Where and how pods run."""

    context: str | None = None
    """kubectl's context; its current one when absent."""
    namespace: DnsLabel = "default"
    """Where everything is made."""
    image: str = Field(examples=["registry.example/raysmith@sha256:…"])
    """The image of all pods, by digest."""
    allow_image_tag: bool = False
    """Takes an image by its tag, which may come to mean another one."""
    queue: DnsLabel | None = None
    """Kueue's LocalQueue, which starts runs when there is room."""
    """A job that waits in a queue is not autoscaled: it gets its pods all at once."""
    head: HeadSpec = HeadSpec()
    """The pod of Ray's head."""
    workers: WorkersSpec = WorkersSpec()
    """The pods that compute."""
    kuberay: KubeRayVersion = "1.6"
    """The release of KubeRay's operator that runs there."""
    storage: StorageClaimSpec | None = None
    """The volume that runs lie on. When absent, the image or the nodes must have the profile's
    `storage`."""
    secrets: dict[EnvironmentName, SecretKey] = {}
    """Environment variables that come from Secrets: `SERVE_API_KEY: serve-keys/api_key`. What a
    spec calls `${secret:NAME}` must be among them."""
    auth_from: DnsLabel | None = None
    """The Secret with Ray's token, at the key auth_token: KubeRay 1.6. When absent, KubeRay makes
    a token for each cluster."""
    service_account: DnsLabel | None = None
    """The pods' service account; the namespace's default one when absent. Its token is in no
    pod but the head of a cluster that is autoscaled."""
    image_pull_secrets: tuple[DnsLabel, ...] = ()
    """Secrets with the registry's credentials."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes fetch the image."""
    run_as_user: PositiveInt = 1000
    """The user in the pods, and their group; root is not taken."""
    network: NetworkSpec = NetworkSpec()
    """Who reaches the pods."""
    fault_tolerance: FaultToleranceSpec | None = None
    """For services and shared clusters; a run goes on from its checkpoints instead."""
    retries: NonNegativeInt = 1
    """How often a run is begun anew, on new pods, when its cluster is lost. It goes on from its
    newest checkpoint. KubeRay can't tell a lost cluster from a wrong spec, so it begins that anew
    as well."""
    start_deadline: Duration | None = None
    """How long a run may wait for its pods, before it ends as failed: KubeRay 1.6."""
    ttl: Duration = "1h"
    """How long an ended run is kept in Kubernetes' lists. Its folder stays in the storage."""
    labels: dict[str, str] = {}
    """Labels of everything that is made."""
    annotations: dict[str, str] = {}
    """Annotations of everything that is made."""

    @model_validator(mode="after")
    def _image_is_pinned(self) -> KubernetesSpec:
        if not self.allow_image_tag:
            _by_digest(self.image)
        return self

    @model_validator(mode="after")
    def _labels_are_free(self) -> KubernetesSpec:
        for key in (*self.labels, *self.annotations):
            if _TEMPLATE_KEYS.match(key):
                raise ValueError(
                    f"{key!r} is set by raysmith, KubeRay or Kueue; choose another key"
                )
        return self

    @model_validator(mode="after")
    def _operator_knows(self) -> KubernetesSpec:
        rocksdb = self.fault_tolerance and self.fault_tolerance.backend == "rocksdb"
        needs = (
            ("start_deadline", self.start_deadline, "1.6"),
            ("auth_from", self.auth_from, "1.6"),
            ("fault_tolerance.backend: rocksdb", rocksdb, "1.7"),
        )
        for field, given, version in needs:
            if given and self.kuberay < version:
                raise ValueError(
                    f"{field} needs KubeRay {version}, and kuberay is {self.kuberay}; leave it "
                    "out, or update the operator and say so"
                )
        return self
