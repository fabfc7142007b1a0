"""The Ray cluster of a run or a service: its head, its workers, and how they are hardened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.spec.fields import duration_s, size_bytes
from jobs.spec.kubernetes_site import FaultToleranceSpec, KubernetesSpec, TolerationSpec
from jobs.spec.site_profile import ProfileSpec

RAY_VERSION = "2.60.0"
"""The Ray that the image must have."""
CONFIG_PATH = "/etc/raysmith"
"""Where a run's pods see their spec and profile."""
SERVE_PORT = 8000
"""Where a service listens inside the cluster."""

_SHM_SHARE = 0.3
_TELL_S = 30
_PRIVILEGES = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

Document = dict[str, Any]


@dataclass(frozen=True)
class Workers:
    """How many pods compute."""

    wanted: int
    fewest: int
    most: int

    @property
    def autoscaled(self) -> bool:
        """Whether KubeRay's autoscaler adds and takes away pods."""
        return self.fewest < self.most


@dataclass(frozen=True)
class Site:
    """What all documents of a rendering have in common."""

    profile: ProfileSpec
    kubernetes: KubernetesSpec
    name: str
    """What the documents belong to: a Kubernetes name."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every document and pod; the NetworkPolicy finds the pods by them."""
        return {
            **self.kubernetes.labels,
            "app.kubernetes.io/name": "raysmith",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "raysmith",
        }

    @property
    def grace_s(self) -> int:
        """Seconds that a stop may take."""
        return int(duration_s(self.profile.stop_grace))

    def metadata(self, name: str) -> Document:
        """A document's metadata."""
        found: Document = {
            "name": name,
            "namespace": self.kubernetes.namespace,
            "labels": self.labels,
        }
        if self.kubernetes.annotations:
            found["annotations"] = dict(self.kubernetes.annotations)
        return found


def ray_cluster(
    site: Site,
    workers: Workers,
    variables: Mapping[str, str],
    *,
    config_map: str | None = None,
    fault_tolerant: bool = False,
) -> Document:
    """The spec of a RayCluster.

    Args:
        site: the profile and the names.
        workers: how many pods compute.
        variables: environment variables, none of them a secret.
        config_map: the ConfigMap that the head mounts at `CONFIG_PATH`.
        fault_tolerant: whether the head's state is kept, where the profile says how.
    """
    kubernetes = site.kubernetes
    auth: Document = {"mode": "token"}
    if kubernetes.auth_from:
        auth["secretName"] = kubernetes.auth_from
    cluster: Document = {"rayVersion": RAY_VERSION, "authOptions": auth}
    if workers.autoscaled:
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "securityContext": _PRIVILEGES,
            "resources": _exact(1, 10**9),
        }
    if fault_tolerant and kubernetes.fault_tolerance:
        cluster["gcsFaultToleranceOptions"] = _fault_tolerance(kubernetes.fault_tolerance)
    cluster["headGroupSpec"] = {
        # The head schedules and drives; work on it would take memory that all depend on.
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
        "template": _head(site, variables, config_map, autoscaled=workers.autoscaled),
    }
    group: Document = {
        "groupName": "workers",
        "replicas": workers.wanted,
        "minReplicas": workers.fewest,
        "maxReplicas": workers.most,
        "rayStartParams": {},
    }
    if kubernetes.workers.accelerator_type:
        group["labels"] = {"ray.io/accelerator-type": kubernetes.workers.accelerator_type}
    cluster["workerGroupSpecs"] = [{**group, "template": _worker(site, variables)}]
    return cluster


def _head(
    site: Site, variables: Mapping[str, str], config_map: str | None, *, autoscaled: bool
) -> Document:
    size = site.kubernetes.head
    container = _container(site, "ray-head", variables)
    container["resources"] = _exact(size.cpus, size_bytes(size.memory))
    container["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
        {"name": "serve", "containerPort": SERVE_PORT},
    ]
    shared = int(size_bytes(size.memory) * _SHM_SHARE)
    pod = _pod(site, container, shared, token=autoscaled)
    if config_map:
        pod["volumes"].append({"name": "job", "configMap": {"name": config_map}})
        container["volumeMounts"].append(
            {"name": "job", "mountPath": CONFIG_PATH, "readOnly": True}
        )
    return _template(site, pod)


def _worker(site: Site, variables: Mapping[str, str]) -> Document:
    size = site.kubernetes.workers
    container = _container(site, "ray-worker", variables)
    memory = size_bytes(size.memory)
    resources = _exact(size.cpus, memory)
    if size.gpus:
        resources["requests"][size.gpu_resource] = str(size.gpus)
        resources["limits"][size.gpu_resource] = str(size.gpus)
    container["resources"] = resources
    shared = size_bytes(size.shared_memory) if size.shared_memory else int(memory * _SHM_SHARE)
    pod = _pod(site, container, shared, token=False)
    selector = dict(size.node_selector)
    if selector:
        pod["nodeSelector"] = selector
    if size.tolerations:
        pod["tolerations"] = [_toleration(item) for item in size.tolerations]
    return _template(site, pod)


def _toleration(item: TolerationSpec) -> Document:
    return item.model_dump(exclude_none=True)


def _container(site: Site, name: str, variables: Mapping[str, str]) -> Document:
    kubernetes = site.kubernetes
    environment: list[Document] = [
        {"name": key, "value": value} for key, value in sorted(variables.items())
    ]
    environment += [
        {"name": key, "valueFrom": secret_key(reference)}
        for key, reference in sorted(kubernetes.secrets.items())
    ]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if kubernetes.storage:
        mounts.append({"name": "storage", "mountPath": kubernetes.storage.mount_path})
    return {
        "name": name,
        "image": kubernetes.image,
        "imagePullPolicy": kubernetes.image_pull_policy,
        "env": environment,
        "volumeMounts": mounts,
        "securityContext": dict(_PRIVILEGES),
    }


def secret_key(reference: str) -> Document:
    """Where an environment variable comes from that is in a Secret, written NAME/KEY."""
    name, _, key = reference.partition("/")
    return {"secretKeyRef": {"name": name, "key": key}}


def _pod(site: Site, container: Document, shared_bytes: int, *, token: bool) -> Document:
    kubernetes = site.kubernetes
    volumes: list[Document] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(shared_bytes)}}
    ]
    if kubernetes.storage:
        claim = {"claimName": kubernetes.storage.claim}
        volumes.append({"name": "storage", "persistentVolumeClaim": claim})
    pod: Document = {
        "automountServiceAccountToken": token,
        "terminationGracePeriodSeconds": site.grace_s + _TELL_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": kubernetes.run_as_user,
            "runAsGroup": kubernetes.run_as_user,
            "fsGroup": kubernetes.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if kubernetes.service_account:
        pod["serviceAccountName"] = kubernetes.service_account
    if kubernetes.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in kubernetes.image_pull_secrets]
    return pod


def _template(site: Site, pod: Document) -> Document:
    metadata: Document = {"labels": site.labels}
    if site.kubernetes.annotations:
        metadata["annotations"] = dict(site.kubernetes.annotations)
    return {"metadata": metadata, "spec": pod}


def _exact(cpus: int, memory_bytes: int) -> dict[str, dict[str, str]]:
    """Resources of which a pod gets what it asks for, so that no neighbour takes it away."""
    both = {"cpu": str(cpus), "memory": str(memory_bytes)}
    return {"requests": dict(both), "limits": dict(both)}


def _fault_tolerance(given: FaultToleranceSpec) -> Document:
    if given.backend == "rocksdb":
        return {"backend": "rocksdb", "storage": {"size": str(size_bytes(given.size))}}
    options: Document = {"redisAddress": given.redis_address}
    if given.redis_auth_from:
        options["redisPassword"] = {"valueFrom": secret_key(given.redis_auth_from)}
    return options
