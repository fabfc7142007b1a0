"""KubeRay's objects of a job in a Kubernetes cluster: made, looked at and stopped with kubectl.

kubectl brings every way to sign in that sites use, so that we keep no credentials.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.kuberay.text import to_documents
from jobs.errors import ClusterError
from jobs.spec.kubernetes_site import KubernetesSpec

Document = Mapping[str, Any]

KINDS = ("rayjob", "rayservice", "raycluster")

_ENDED = ("Complete", "Failed", "ValidationFailed")
_REQUEST_S = 60
_POLL_S = 2.0
_REMEDIES = (
    ("Unable to connect to the server", "check the network, and `kubectl config get-contexts`"),
    ("connection to the server", "check the network, and `kubectl config get-contexts`"),
    ("context was not found", "check kubernetes.context of the profile"),
    ("does not exist", "check kubernetes.context of the profile"),
    ("no matches for kind", "install KubeRay's operator: see k8s/README.md"),
    ("the server doesn't have a resource type", "install KubeRay's operator: see k8s/README.md"),
    ("orbidden", "ask for the rights of k8s/base/rbac.yaml in this namespace"),
    ("nauthorized", "sign in again"),
    ("must be logged in", "sign in again"),
    ("namespaces", "make the namespace, or check kubernetes.namespace of the profile"),
)


@dataclass(frozen=True)
class Standing:
    """How an object stands."""

    kind: str
    """One of `KINDS`."""
    name: str
    state: str
    """Such as Running."""
    reason: str = ""
    message: str = ""
    job_id: str = ""
    """Ray's id of a RayJob's job."""
    cluster: str = ""
    """The name of its RayCluster."""

    @property
    def is_final(self) -> bool:
        """Whether it ended."""
        return self.kind == "rayjob" and self.state in _ENDED

    def __str__(self) -> str:
        more = ": ".join(part for part in (self.reason, self.message) if part)
        return f"{self.kind}/{self.name}: {self.state}" + (f" ({more})" if more else "")


class Kubectl:
    """kubectl, in the context and the namespace of a profile.

    Every method raises `ClusterError` where kubectl is missing, or is refused.
    """

    def __init__(self, site: KubernetesSpec) -> None:
        self._site = site

    def apply(self, documents: Sequence[Document]) -> list[str]:
        """Makes or changes objects. Returns kubectl's line on each.

        A RayJob that has ended is made anew, since KubeRay runs each once; the run goes on from
        its checkpoints.
        """
        for document in documents:
            if document["kind"] == "RayJob":
                name = document["metadata"]["name"]
                found = self.status(name)
                if any(item.is_final for item in found if item.kind == "rayjob"):
                    self._call("delete", "rayjob", name, "--wait=true")
        text = to_documents(documents)
        return self._call("apply", "-f", "-", given=text).splitlines()

    def status(self, name: str) -> list[Standing]:
        """How the objects of a name stand; empty where there are none."""
        return [found for kind in KINDS if (found := self._standing(kind, name))]

    def logs(self, name: str, *, follow: bool, write: Callable[[str], None]) -> None:
        """Shows what the driver of a RayJob said.

        Raises:
            ClusterError: if there is no such job, or it has no cluster yet or any more.
        """
        job = self._standing("rayjob", name)
        if job is None or not job.cluster or not job.job_id:
            state = str(job) if job else f"there is no rayjob/{name} here"
            raise ClusterError(f"{state}, so nothing is logged", "see kubectl get rayjobs")
        more = ["--follow"] if follow else []
        command = ["ray", "job", "logs", job.job_id, *more]
        self._stream(self._on_head(job.cluster, command), write)

    def stop(self, name: str, grace_s: float, tell: Callable[[str], None]) -> None:
        """Stops what has a name, and deletes it. A run commits its checkpoint first.

        Calling it again, or where nothing is left, does no harm.
        """
        for found in self.status(name):
            if found.kind == "rayjob" and not found.is_final:
                self._stop_driver(found, grace_s, tell)
            self._call("delete", found.kind, found.name, "--ignore-not-found", "--wait=false")
            tell(f"{found.kind}/{found.name}: deleted")
        for kind in ("networkpolicy", "configmap"):
            self._call("delete", kind, name, "--ignore-not-found", "--wait=false")

    def _stop_driver(self, job: Standing, grace_s: float, tell: Callable[[str], None]) -> None:
        """Ends the driver before its pods go, which would cut off its checkpoint."""
        if not job.cluster or not job.job_id:
            return
        command = ["ray", "job", "stop", "--no-wait", job.job_id]
        try:
            self._call(*self._on_head(job.cluster, command))
        except ClusterError as error:
            tell(f"{job.name}: its driver is not reached, and is deleted with its pods: {error}")
            return
        tell(f"{job.name}: asked to stop; waiting {grace_s:.0f} s at most for its checkpoint")
        end = time.monotonic() + grace_s
        while time.monotonic() < end:
            found = self._standing("rayjob", job.name)
            if found is None or found.is_final:
                return
            time.sleep(_POLL_S)

    def _on_head(self, cluster: str, command: Sequence[str]) -> list[str]:
        selector = f"ray.io/cluster={cluster},ray.io/node-type=head"
        pod = self._call("get", "pods", "-l", selector, "-o", "name").strip().splitlines()
        if not pod:
            raise ClusterError(
                f"the cluster {cluster} has no head now", f"see kubectl get pods -l {selector}"
            )
        return ["exec", pod[0], "-c", "ray-head", "--", *command]

    def _standing(self, kind: str, name: str) -> Standing | None:
        text = self._call("get", kind, name, "--ignore-not-found", "-o", "json")
        if not text.strip():
            return None
        status = json.loads(text).get("status") or {}
        state = status.get("jobDeploymentStatus") or status.get("serviceStatus")
        return Standing(
            kind,
            name,
            state or status.get("state") or "New",
            status.get("reason", ""),
            status.get("message", ""),
            status.get("jobId", ""),
            status.get("rayClusterName", ""),
        )

    def _command(self, arguments: Sequence[str]) -> list[str]:
        context = ["--context", self._site.context] if self._site.context else []
        return ["kubectl", *context, "-n", self._site.namespace, *arguments]

    def _call(self, *arguments: str, given: str | None = None) -> str:
        verb, *rest = arguments
        command = self._command((verb, f"--request-timeout={_REQUEST_S}s", *rest))
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise _missing() from error
        if done.returncode:
            raise _refused(arguments, done.stderr)
        return done.stdout

    def _stream(self, arguments: Sequence[str], write: Callable[[str], None]) -> None:
        command = self._command(arguments)
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except FileNotFoundError as error:
            raise _missing() from error
        with process:
            assert process.stdout
            assert process.stderr
            for line in process.stdout:
                write(line.rstrip("\n"))
            said = process.stderr.read()
        if process.returncode:
            raise _refused(arguments, said)


def _missing() -> ClusterError:
    return ClusterError(
        "there is no kubectl on this machine", "install it: https://kubernetes.io/docs/tasks/tools"
    )


def _refused(arguments: Sequence[str], said: str) -> ClusterError:
    remedy = next((remedy for words, remedy in _REMEDIES if words in said), None)
    reason = said.strip().splitlines()[-1] if said.strip() else "it gave no reason"
    return ClusterError(f"kubectl {arguments[0]} failed: {reason}", remedy)
