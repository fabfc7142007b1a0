"""Each rule has a document that breaks it, and it alone."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.rules import check, violations
from jobs.errors import RaysmithError

GOLDEN = Path(__file__).parents[3] / "golden"
Document = dict[str, Any]
Change = Callable[[Document], object]


def _job() -> Document:
    text = (GOLDEN / "self-cognition.manifests.yaml").read_text(encoding="utf-8")
    return next(d for d in yaml.safe_load_all(text) if d["kind"] == "RayJob")


def cluster(job: Document) -> Document:
    found: Document = job["spec"]["rayClusterSpec"]
    return found


def worker(job: Document) -> Document:
    found: Document = cluster(job)["workerGroupSpecs"][0]
    return found


def pod(job: Document) -> Document:
    found: Document = worker(job)["template"]["spec"]
    return found


def head(job: Document) -> Document:
    found: Document = cluster(job)["headGroupSpec"]
    return found


def container(job: Document) -> Document:
    found: Document = pod(job)["containers"][0]
    return found


def spec(**values: Any) -> Change:
    return lambda job: job["spec"].update(values)


def rules_of_deletion(*policies: tuple[str, int], autoscales: bool = False) -> Change:
    rules = [
        {"policy": policy, "condition": {"jobStatus": "FAILED", "ttlSeconds": age}}
        for policy, age in policies
    ]

    def change(job: Document) -> None:
        for field in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished"):
            del job["spec"][field]
        job["spec"]["deletionStrategy"] = {"deletionRules": rules}
        if not autoscales:
            _fixed(job)

    return change


def _fixed(job: Document) -> None:
    cluster(job)["enableInTreeAutoscaling"] = False
    worker(job)["minReplicas"] = worker(job)["maxReplicas"] = worker(job)["replicas"]
    head(job)["template"]["spec"]["automountServiceAccountToken"] = False


def queued(job: Document) -> None:
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "q"


def queued_in_groups(job: Document) -> None:
    queued(job)
    _fixed(job)
    cluster(job)["workerGroupSpecs"] = [
        {**copy.deepcopy(worker(job)), "groupName": f"g{n}"} for n in range(18)
    ]


def both(*changes: Change) -> Change:
    def change(job: Document) -> None:
        for one in changes:
            one(job)

    return change


def selects(**values: Any) -> Change:
    return spec(clusterSelector={"a": "b"}, backoffLimit=0, **values)


BROKEN: dict[str, tuple[Change, str]] = {
    "long": (lambda j: j["metadata"].update(name="a" * 48), "48 characters"),
    "label": (lambda j: j["metadata"].update(name="a.b"), "DNS-1035"),
    "digit": (lambda j: j["metadata"].update(name="1a"), "DNS-1035"),
    "mode": (spec(submissionMode="HttpMode"), "submissionMode is 'HttpMode'"),
    "suspend": (
        spec(suspend=True, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0),
        "suspend needs",
    ),
    "ttl": (spec(shutdownAfterJobFinishes=False), "ttlSecondsAfterFinished needs"),
    "selector-suspend": (selects(suspend=True), "excludes suspend"),
    "selector-retries": (
        both(selects(), spec(backoffLimit=1)),
        "clusterSelector excludes backoffLimit",
    ),
    "selector-sidecar": (selects(submissionMode="SidecarMode"), "excludes SidecarMode"),
    "interactive": (spec(submissionMode="InteractiveMode"), "InteractiveMode excludes"),
    "sidecar": (
        spec(submissionMode="SidecarMode", submitterConfig={"backoffLimit": 1}),
        "SidecarMode excludes submitterConfig",
    ),
    "sidecar-restart": (
        both(
            _fixed,
            spec(submissionMode="SidecarMode"),
            lambda j: head(j)["template"]["spec"].update(restartPolicy="Always"),
        ),
        "restartPolicy to be Never",
    ),
    "deletion-and-ttl": (
        both(rules_of_deletion(("DeleteSelf", 1)), spec(shutdownAfterJobFinishes=True)),
        "deletionRules exclude shutdownAfterJobFinishes",
    ),
    "deletion-order": (
        rules_of_deletion(("DeleteWorkers", 9), ("DeleteCluster", 1)),
        "backwards in time",
    ),
    "deletion-autoscaling": (
        rules_of_deletion(("DeleteWorkers", 9), autoscales=True),
        "DeleteWorkers excludes autoscaling",
    ),
    "queue-autoscaling": (queued, "Kueue excludes autoscaling"),
    "queue-shutdown": (
        both(queued, _fixed, spec(shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0)),
        "Kueue needs",
    ),
    "queue-selector": (both(queued, _fixed, selects()), "Kueue excludes clusterSelector"),
    "queue-groups": (queued_in_groups, "17 worker groups"),
    "auth-off": (lambda j: cluster(j).pop("authOptions"), "authOptions.mode"),
    "auth-old": (lambda j: cluster(j).update(rayVersion="2.51.0"), "2.52"),
    "auth-delegated": (
        lambda j: cluster(j)["authOptions"].update(enableK8sTokenAuth=True),
        "RayCluster alone",
    ),
    "replicas": (lambda j: worker(j).update(replicas=99), "between minReplicas"),
    "min-max": (
        both(_fixed, lambda j: worker(j).update(minReplicas=0)),
        "without autoscaling",
    ),
    "head-works": (lambda j: head(j)["rayStartParams"].pop("num-cpus"), "head takes work"),
    "restarts": (lambda j: pod(j).update(restartPolicy="Always"), "autoscaler v2"),
    "upgrade": (lambda j: cluster(j).update(upgradeStrategy={"type": "None"}), "upgradeStrategy"),
    "labels": (lambda j: worker(j)["rayStartParams"].update(labels="a=b"), "labels is forbidden"),
    "twice": (
        lambda j: head(j).update(resources={"CPU": "0"}),
        "in rayStartParams and in resources",
    ),
    "root": (lambda j: pod(j)["securityContext"].update(runAsUser=0), "as root"),
    "seccomp": (lambda j: pod(j)["securityContext"].pop("seccompProfile"), "seccomp"),
    "token": (lambda j: pod(j).update(automountServiceAccountToken=True), "must be False"),
    "host": (lambda j: pod(j).update(hostNetwork=True), "hostNetwork"),
    "shm": (lambda j: pod(j)["volumes"][0].update(emptyDir={}), "/dev/shm"),
    "privileges": (
        lambda j: container(j)["securityContext"].update(allowPrivilegeEscalation=True),
        "gain privileges",
    ),
    "capabilities": (
        lambda j: container(j)["securityContext"].update(capabilities={}),
        "drop all capabilities",
    ),
    "memory": (
        lambda j: container(j)["resources"]["requests"].update(memory="1"),
        "memory that it may take",
    ),
    "secret": (
        lambda j: container(j)["env"].append({"name": "HF_TOKEN", "value": "x"}),
        "env HF_TOKEN",
    ),
}


def test_what_we_render_breaks_nothing() -> None:
    check([_job()])


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_document_is_caught(name: str) -> None:
    change, words = BROKEN[name]
    job = _job()
    change(job)
    found = violations([job])
    assert len(found) == 1, found
    assert words in found[0]
    with pytest.raises(RaysmithError, match="bug in raysmith"):
        check([job])


def test_everything_is_said_at_once() -> None:
    job = _job()
    cluster(job).pop("authOptions")
    pod(job).update(hostPID=True, hostIPC=True)
    assert len(violations([job])) == 3
