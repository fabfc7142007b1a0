"""KubeRay's documents for a plan: a RayJob for what runs to its end, a RayService for each serve
stage, and what both need beside them. Pure functions: nothing is asked of a cluster."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from cluster.fingerprint import EXPECTED, fingerprint
from cluster.kuberay.naming import LONGEST_CLUSTER, LONGEST_RUN, dns_name
from cluster.kuberay.network import network_policy
from cluster.kuberay.pods import (
    CONFIG_PATH,
    SERVE_PORT,
    Document,
    Site,
    Workers,
    ray_cluster,
)
from cluster.kuberay.sizing import pods_needed
from cluster.kuberay.text import to_yaml
from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.load.site_profile import LoadedProfile
from jobs.masking import secret_names
from jobs.plan.demand import DEFAULT_CPUS, demands
from jobs.plan.resolve import Plan, StagePlan
from jobs.plan.unserved import without_services
from jobs.spec.fields import duration_s
from jobs.spec.kubernetes_site import KubernetesSpec
from jobs.spec.serve import ServeSpec

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

_MOST_CONFIG_BYTES = 1_000_000
_DEADLINE_SPARE_S = 600
"""What a run gets beyond its deadline, to start its pods and to end by itself."""


def render(
    loaded: LoadedSpec, plan: Plan, profile: LoadedProfile, forced: Sequence[str] = ()
) -> tuple[Document, ...]:
    """The documents of a job, those that others need first.

    Args:
        loaded: the spec, with overrides and environment applied.
        plan: what it comes to under the profile.
        profile: with a section `kubernetes`.
        forced: the stages that take nothing from earlier runs.

    Raises:
        UserError: if the profile can't hold the job, or Kubernetes could not run it.
    """
    kubernetes = _kubernetes(profile)
    storage = _storage(profile, kubernetes)
    _check_secrets(loaded, profile, kubernetes)
    batch = without_services(plan)
    documents: list[Document] = []
    if batch.stages:
        own = _without_secrets_of_services(kubernetes, plan, batch)
        site = Site(profile.spec, own, dns_name(plan.name, LONGEST_RUN))
        documents += _run(site, loaded, batch, storage, forced)
    for stage in plan.stages:
        if isinstance(stage.spec, ServeSpec):
            name = plan.name if not batch.stages and _is_only(plan) else f"{plan.name}-{stage.name}"
            site = Site(profile.spec, kubernetes, dns_name(name, LONGEST_RUN))
            documents += _service(site, loaded, plan, stage, storage)
    return tuple(documents)


def render_cluster(profile: LoadedProfile, name: str) -> tuple[Document, ...]:
    """The documents of a Ray cluster that several jobs share, of all the profile's pods.

    Raises:
        UserError: if the profile has no section `kubernetes`.
    """
    kubernetes = _kubernetes(profile)
    size = kubernetes.workers
    site = Site(profile.spec, kubernetes, dns_name(name, LONGEST_CLUSTER))
    workers = _workers(kubernetes, size.max)
    if workers.autoscaled:
        workers = replace(workers, wanted=workers.fewest)
    metadata = _queued(site, site.metadata(site.name))
    spec = ray_cluster(site, workers, _variables(site), fault_tolerant=True)
    return (*network_policy(site), _document("ray.io/v1", "RayCluster", metadata, spec))


def _is_only(plan: Plan) -> bool:
    return len(plan.stages) == 1


def _kubernetes(profile: LoadedProfile) -> KubernetesSpec:
    if profile.spec.kubernetes is None:
        raise UserError(
            f"{profile.path} has no section kubernetes, so there is no image and no size of pods",
            "add one, as k8s/profiles/dev.yaml has it",
        )
    return profile.spec.kubernetes


def _storage(profile: LoadedProfile, kubernetes: KubernetesSpec) -> str:
    storage = profile.spec.storage
    if storage and storage.startswith("s3://"):
        return storage
    if not storage or not PurePosixPath(storage).is_absolute():
        raise UserError(
            f"{profile.path}: storage is {storage!r}, and pods share no current folder",
            "give it as an absolute path in the pods, such as /mnt/raysmith/runs, or as s3://...",
        )
    mount = kubernetes.storage and PurePosixPath(kubernetes.storage.mount_path)
    if mount and not PurePosixPath(storage).is_relative_to(mount):
        raise UserError(
            f"{profile.place('storage')}: storage {storage} does not lie in {mount}, where the "
            f"claim {kubernetes.storage and kubernetes.storage.claim} is mounted: runs would be "
            "lost with their pods",
            f"write storage: {mount}/runs, or change kubernetes.storage.mount_path",
        )
    return storage


def _check_secrets(loaded: LoadedSpec, profile: LoadedProfile, kubernetes: KubernetesSpec) -> None:
    missing = sorted(secret_names(to_yaml(loaded.tree)) - set(kubernetes.secrets))
    if missing:
        lines = ", ".join(f"{name}: SECRET/KEY" for name in missing)
        raise UserError(
            f"the spec asks for {', '.join(f'${{secret:{name}}}' for name in missing)}, and "
            f"kubernetes.secrets of {profile.path} does not say from which Secret",
            f"add kubernetes.secrets: {{{lines}}}",
        )


def _without_secrets_of_services(
    kubernetes: KubernetesSpec, plan: Plan, batch: Plan
) -> KubernetesSpec:
    """What the pods of a run get: no key of a service, since users' own code runs beside it."""
    others = secret_names(plan.to_json()) - secret_names(batch.to_json())
    secrets = {name: key for name, key in kubernetes.secrets.items() if name not in others}
    return kubernetes.model_copy(update={"secrets": secrets})


def _workers(kubernetes: KubernetesSpec, needed: int) -> Workers:
    most = max(needed, kubernetes.workers.min)
    if kubernetes.queue:
        return Workers(most, most, most)
    return Workers(most, min(kubernetes.workers.min, most), most)


def _variables(site: Site) -> dict[str, str]:
    return {
        EXPECTED: fingerprint(),
        "RAY_JOB_STOP_WAIT_TIME_S": str(site.grace_s),
        "PYTHONSAFEPATH": "1",
    }


def _queued(site: Site, metadata: Document) -> Document:
    if not site.kubernetes.queue:
        return metadata
    return {**metadata, "labels": {**metadata["labels"], QUEUE_LABEL: site.kubernetes.queue}}


def _document(api: str, kind: str, metadata: Document, spec: Mapping[str, object]) -> Document:
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _run(
    site: Site, loaded: LoadedSpec, plan: Plan, storage: str, forced: Sequence[str]
) -> list[Document]:
    kubernetes, profile = site.kubernetes, site.profile
    files = {"spec.yaml": to_yaml(loaded.tree), "profile.yaml": to_yaml(_inner_profile(site))}
    if sum(len(text.encode()) for text in files.values()) > _MOST_CONFIG_BYTES:
        raise UserError(
            f"{loaded.path} is larger than a ConfigMap may be, 1 MB",
            "move rows and long texts into files on the storage",
        )
    config: Document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": site.metadata(site.name),
        "data": files,
    }
    cpus = min(DEFAULT_CPUS, kubernetes.workers.cpus)
    workers = _workers(kubernetes, pods_needed(demands(plan, cpus), kubernetes.workers))
    variables = _variables(site)
    command = [
        "raysmith", "run", f"{CONFIG_PATH}/spec.yaml", "--profile", f"{CONFIG_PATH}/profile.yaml",
        "--storage", storage, "--no-serve",
        *(f"--force-stage={stage.name}" for stage in plan.stages if stage.name in forced),
    ]  # fmt: skip
    spec: Document = {
        "entrypoint": shlex.join(command),
        # No pod of its own to submit from: one less that can be lost.
        "submissionMode": "HTTPMode",
        "runtimeEnvYAML": to_yaml({"env_vars": variables}),
        "backoffLimit": kubernetes.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": math.ceil(duration_s(kubernetes.ttl)),
    }
    if profile.policy.deadline:
        limit = duration_s(profile.policy.deadline) + site.grace_s + _DEADLINE_SPARE_S
        spec["activeDeadlineSeconds"] = math.ceil(limit)
    if kubernetes.start_deadline:
        spec["preRunningDeadlineSeconds"] = math.ceil(duration_s(kubernetes.start_deadline))
    if kubernetes.queue:
        spec["suspend"] = True
    spec["rayClusterSpec"] = ray_cluster(site, workers, variables, config_map=site.name)
    metadata = _queued(site, site.metadata(site.name))
    return [*network_policy(site), config, _document("ray.io/v1", "RayJob", metadata, spec)]


def _inner_profile(site: Site) -> Document:
    """What of the profile concerns a run that is in its cluster already."""
    inner = {"version", "storage", "stop_grace", "policy"}
    return site.profile.model_dump(mode="json", include=inner, exclude_none=True)


def _service(
    site: Site, loaded: LoadedSpec, plan: Plan, stage: StagePlan, storage: str
) -> list[Document]:
    spec = stage.spec
    assert isinstance(spec, ServeSpec)
    if spec.auth is None:
        problem = loaded.problem(
            f"stages.{stage.name}",
            "in Kubernetes other pods reach a service, so it needs a key",
            f"add auth: {{api_key: ${{secret:SERVE_API_KEY}}}} to stages.{stage.name}",
        )
        raise UserError(str(problem))
    kubernetes = site.kubernetes
    cpus = min(DEFAULT_CPUS, kubernetes.workers.cpus)
    alone = replace(plan, stages=(stage,))
    workers = _workers(kubernetes, pods_needed(demands(alone, cpus), kubernetes.workers))
    arguments = {
        "job": plan.name,
        "storage": storage,
        "stage": stage.name,
        "spec": json.loads(spec.model_dump_json()),
    }
    configuration = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},
        "applications": [
            {
                "name": stage.name,
                "import_path": "workloads.serve.app:build",
                "route_prefix": "/",
                "args": arguments,
            }
        ],
    }
    content: Document = {
        "serveConfigV2": to_yaml(configuration),
        "excludeHeadPodFromServeSvc": True,
        "rayClusterConfig": ray_cluster(site, workers, _variables(site), fault_tolerant=True),
    }
    metadata = _queued(site, site.metadata(site.name))
    return [*network_policy(site), _document("ray.io/v1", "RayService", metadata, content)]
