"""What must be true of documents beyond their schema: KubeRay's and Kueue's rules, and hardening.

An operator finds these only when the object is there, and some of them never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cluster.kuberay.naming import DNS_1035, LONGEST_CLUSTER, LONGEST_RUN
from jobs.errors import RaysmithError

Document = Mapping[str, Any]

_LONGEST = {"RayCluster": LONGEST_CLUSTER, "RayJob": LONGEST_RUN, "RayService": LONGEST_RUN}
_CLUSTERS = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig", "RayCluster": None}
_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
_QUEUE = "kueue.x-k8s.io/queue-name"
_MOST_QUEUED_GROUPS = 17
_LEAST_AUTH_RAY = (2, 52)
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY")
_DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def check(documents: Iterable[Document]) -> None:
    """Refuses documents that break a rule.

    Raises:
        RaysmithError: with every rule that is broken. What we render breaks none, so it is a bug.
    """
    if found := violations(documents):
        raise RaysmithError(
            "the documents break rules of KubeRay's:\n  " + "\n  ".join(found),
            "this is a bug in raysmith: please report it",
        )


def violations(documents: Iterable[Document]) -> list[str]:
    """Every rule that a document breaks, as `Kind/name: what`."""
    found = []
    for document in documents:
        kind = document["kind"]
        if kind not in _CLUSTERS:
            continue
        where = f"{kind}/{document['metadata']['name']}"
        for rule in _RULES:
            found += [f"{where}: {message}" for message in rule(document)]
    return found


def _spec(document: Document) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = document["spec"]
    return spec


def _cluster(document: Document) -> Mapping[str, Any]:
    field = _CLUSTERS[document["kind"]]
    spec = _spec(document)
    found: Mapping[str, Any] = spec if field is None else spec.get(field, {})
    return found


def _groups(document: Document) -> list[tuple[str, Mapping[str, Any]]]:
    cluster = _cluster(document)
    head = cluster.get("headGroupSpec")
    groups = [("head", head)] if head else []
    return groups + [(g["groupName"], g) for g in cluster.get("workerGroupSpecs", ())]


def _name(document: Document) -> Iterator[str]:
    name, longest = document["metadata"]["name"], _LONGEST[document["kind"]]
    if len(name) > longest:
        yield f"the name has {len(name)} characters, and KubeRay takes {longest}"
    if not DNS_1035.match(name):
        yield "the name is no DNS-1035 label"


def _job(document: Document) -> Iterator[str]:
    spec = _spec(document)
    if document["kind"] != "RayJob":
        return
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield f"submissionMode is {mode!r}, and not one of {', '.join(_MODES)}"
    if spec.get("suspend") and not shuts_down:
        yield "suspend needs shutdownAfterJobFinishes: true"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes: true"
    if mode == "InteractiveMode" and spec.get("backoffLimit"):
        yield "InteractiveMode excludes backoffLimit"
    if mode == "SidecarMode":
        for field in ("submitterPodTemplate", "submitterConfig"):
            if field in spec:
                yield f"SidecarMode excludes {field}"


def _selector(document: Document) -> Iterator[str]:
    spec = _spec(document)
    if "clusterSelector" not in spec:
        return
    if spec.get("suspend"):
        yield "clusterSelector excludes suspend"
    if spec.get("backoffLimit"):
        yield "clusterSelector excludes backoffLimit"
    if spec.get("submissionMode") == "SidecarMode":
        yield "clusterSelector excludes SidecarMode"


def _sidecar(document: Document) -> Iterator[str]:
    if _spec(document).get("submissionMode") != "SidecarMode":
        return
    for name, group in _groups(document):
        policy = group["template"]["spec"].get("restartPolicy", "Never")
        if name == "head" and policy != "Never":
            yield "SidecarMode needs the head's restartPolicy to be Never"


def _deletion(document: Document) -> Iterator[str]:
    spec = _spec(document)
    rules = spec.get("deletionStrategy", {}).get("deletionRules")
    if not rules:
        return
    for field in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished"):
        if spec.get(field):
            yield f"deletionRules exclude {field}"
    if _cluster(document).get("enableInTreeAutoscaling") and any(
        rule["policy"] == "DeleteWorkers" for rule in rules
    ):
        yield "the deletion rule DeleteWorkers excludes autoscaling"
    by_condition: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        key = str(condition.get("jobStatus") or condition.get("jobDeploymentStatus"))
        by_condition.setdefault(key, {})[rule["policy"]] = condition.get("ttlSeconds", 0)
    for key, ages in by_condition.items():
        given = [ages[policy] for policy in _DELETION_ORDER if policy in ages]
        if given != sorted(given):
            yield f"deletion rules of {key} go backwards in time: {', '.join(_DELETION_ORDER)}"


def _queue(document: Document) -> Iterator[str]:
    labels = document["metadata"].get("labels", {})
    if _QUEUE not in labels:
        return
    spec, cluster = _spec(document), _cluster(document)
    if document["kind"] == "RayJob" and not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue needs shutdownAfterJobFinishes: true"
    if "clusterSelector" in spec:
        yield "Kueue excludes clusterSelector"
    if cluster.get("enableInTreeAutoscaling") and not labels.get("kueue.x-k8s.io/elastic-job"):
        yield "Kueue excludes autoscaling"
    if len(cluster.get("workerGroupSpecs", ())) > _MOST_QUEUED_GROUPS:
        yield f"Kueue takes at most {_MOST_QUEUED_GROUPS} worker groups"


def _authentication(document: Document) -> Iterator[str]:
    cluster = _cluster(document)
    if not cluster:
        return
    options = cluster.get("authOptions") or {}
    if options.get("mode") != "token":
        yield "authOptions.mode is not token: whoever reaches the dashboard runs code"
    version = tuple(int(part) for part in cluster.get("rayVersion", "0.0").split(".")[:2])
    if version < _LEAST_AUTH_RAY:
        yield "token authentication needs rayVersion 2.52 or newer"
    if options.get("enableK8sTokenAuth") and document["kind"] != "RayCluster":
        yield "enableK8sTokenAuth is for a RayCluster alone"


def _scaling(document: Document) -> Iterator[str]:
    cluster = _cluster(document)
    autoscales = cluster.get("enableInTreeAutoscaling", False)
    for name, group in _groups(document):
        pod = group["template"]["spec"]
        if name != "head":
            least, most = group.get("minReplicas", 0), group.get("maxReplicas", 0)
            if not least <= group.get("replicas", 0) <= most:
                yield f"{name}: replicas do not lie between minReplicas and maxReplicas"
            if least < most and not autoscales:
                yield f"{name}: minReplicas is less than maxReplicas without autoscaling"
        elif group.get("rayStartParams", {}).get("num-cpus") != "0":
            yield "the head takes work: num-cpus is not '0'"
        is_v2 = cluster.get("autoscalerOptions", {}).get("version", "v2") == "v2"
        if autoscales and is_v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"{name}: autoscaler v2 needs restartPolicy Never"
    if document["kind"] != "RayCluster" and "upgradeStrategy" in cluster:
        yield "upgradeStrategy is for a RayCluster of a person's own"


def _start_parameters(document: Document) -> Iterator[str]:
    for name, group in _groups(document):
        parameters = group.get("rayStartParams", {})
        if "labels" in parameters:
            yield f"{name}: rayStartParams.labels is forbidden; use labels"
        doubled = {"num-cpus", "num-gpus", "memory", "resources"} & set(parameters)
        if doubled and group.get("resources"):
            yield f"{name}: resources are given in rayStartParams and in resources"


def _hardening(document: Document) -> Iterator[str]:
    autoscales = _cluster(document).get("enableInTreeAutoscaling", False)
    for name, group in _groups(document):
        pod = group["template"]["spec"]
        context = pod.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or context.get("runAsUser", 1) == 0:
            yield f"{name}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: has no seccomp profile RuntimeDefault"
        if pod.get("automountServiceAccountToken") is not (autoscales and name == "head"):
            yield f"{name}: automountServiceAccountToken must be {autoscales and name == 'head'}"
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(field):
                yield f"{name}: {field} is on"
        yield from _shared_memory(name, pod)
        for container in pod["containers"]:
            yield from (f"{name}: {message}" for message in _container(container))


def _shared_memory(name: str, pod: Mapping[str, Any]) -> Iterator[str]:
    for volume in pod.get("volumes", ()):
        directory = volume.get("emptyDir") or {}
        if directory.get("medium") == "Memory" and directory.get("sizeLimit"):
            return
    yield f"{name}: /dev/shm has no emptyDir of medium Memory with a sizeLimit"


def _container(container: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain privileges"
    if "ALL" not in context.get("capabilities", {}).get("drop", ()):
        yield "does not drop all capabilities"
    resources = container.get("resources", {})
    asked, most = resources.get("requests", {}), resources.get("limits", {})
    if not asked.get("memory") or asked.get("memory") != most.get("memory"):
        yield "does not ask for the memory that it may take"
    for variable in container.get("env", ()):
        is_secret = any(word in variable["name"].upper() for word in _SECRET_WORDS)
        if is_secret and "value" in variable:
            yield f"env {variable['name']} holds a secret that everyone can read"


_RULES: tuple[Callable[[Document], Iterator[str]], ...] = (
    _name,
    _job,
    _selector,
    _sidecar,
    _deletion,
    _queue,
    _authentication,
    _scaling,
    _start_parameters,
    _hardening,
)
