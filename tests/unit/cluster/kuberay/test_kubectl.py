"""kubectl is called as meant, and what it refuses is said so that one can act on it."""

import json
import sys
from pathlib import Path

import pytest

from cluster.kuberay import kubectl
from cluster.kuberay.kubectl import Kubectl
from jobs.errors import ClusterError
from jobs.spec.kubernetes_site import KubernetesSpec

FAKE = f"""#!{sys.executable}
import json, sys
from pathlib import Path
here = Path(__file__).parent
arguments = sys.argv[1:]
given = sys.stdin.read() if "-f" in arguments else ""
with (here / "calls").open("a") as file:
    file.write(json.dumps([arguments, given]) + "\\n")
if (here / "error").is_file():
    sys.exit((here / "error").read_text())
words = [word for word in arguments[4:] if not word.startswith("--request")]
objects = json.loads((here / "objects").read_text())
if words[0] == "get" and words[1] == "pods":
    print("pod/head-1")
elif words[0] == "get":
    found = objects.get("/".join(words[1:3]))
    print(json.dumps(found) if found else "")
elif words[0] == "exec" and "stop" in words:
    for item in objects.values():
        item["status"]["jobDeploymentStatus"] = "Complete"
    (here / "objects").write_text(json.dumps(objects))
elif words[0] == "exec":
    print("step 1\\nstep 2")
elif words[0] == "apply":
    print("rayjob.ray.io/job created")
"""
JOB = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "job"}, "spec": {}}


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kubectl").write_text(FAKE)
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kubectl, "_POLL_S", 0.0)
    set_state(tmp_path, None)
    return tmp_path


def set_state(folder: Path, state: str | None) -> None:
    status = {"jobDeploymentStatus": state, "jobId": "job-x", "rayClusterName": "job-c"}
    objects = {"rayjob/job": {"status": status}} if state else {}
    (folder / "objects").write_text(json.dumps(objects))


def client() -> Kubectl:
    site = KubernetesSpec(image="i:t", allow_image_tag=True, context="here", namespace="ns")
    return Kubectl(site)


def calls(folder: Path) -> list[str]:
    lines = (folder / "calls").read_text().splitlines()
    found = [json.loads(line)[0] for line in lines]
    assert all(call[:4] == ["--context", "here", "-n", "ns"] for call in found)
    return [" ".join(a for a in call[4:] if not a.startswith("--request")) for call in found]


def test_a_job_is_applied(bin_folder: Path) -> None:
    assert client().apply([JOB]) == ["rayjob.ray.io/job created"]
    assert calls(bin_folder)[-1] == "apply -f -"
    given = json.loads((bin_folder / "calls").read_text().splitlines()[-1])[1]
    assert "kind: RayJob" in given


@pytest.mark.parametrize(("state", "is_deleted"), [("Failed", True), ("Running", False)])
def test_a_job_that_ended_is_made_anew(bin_folder: Path, state: str, is_deleted: bool) -> None:
    set_state(bin_folder, state)
    client().apply([JOB])
    assert ("delete rayjob job --wait=true" in calls(bin_folder)) is is_deleted


def test_the_state_is_told(bin_folder: Path) -> None:
    assert client().status("job") == []
    set_state(bin_folder, "Running")
    assert [str(found) for found in client().status("job")] == ["rayjob/job: Running"]


def test_the_driver_is_stopped_before_its_pods_go(bin_folder: Path) -> None:
    set_state(bin_folder, "Running")
    said: list[str] = []
    client().stop("job", 60, said.append)
    made = calls(bin_folder)
    stop = made.index("exec pod/head-1 -c ray-head -- ray job stop --no-wait job-x")
    assert stop < made.index("delete rayjob job --ignore-not-found --wait=false")
    assert said[-1] == "rayjob/job: deleted"


def test_stopping_what_is_gone_does_no_harm(bin_folder: Path) -> None:
    client().stop("job", 60, lambda _: None)


def test_logs_are_those_of_the_driver(bin_folder: Path) -> None:
    set_state(bin_folder, "Running")
    lines: list[str] = []
    client().logs("job", follow=True, write=lines.append)
    assert lines == ["step 1", "step 2"]
    assert calls(bin_folder)[-1].endswith("ray job logs job-x --follow")


def test_no_job_has_no_logs(bin_folder: Path) -> None:
    with pytest.raises(ClusterError, match="there is no rayjob/job"):
        client().logs("job", follow=False, write=print)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Unable to connect to the server: dial tcp: i/o timeout", "check the network"),
        ('error: context "here" does not exist', "kubernetes.context"),
        ('error: the server doesn\'t have a resource type "rayjob"', "install KubeRay"),
        ("Error from server (Forbidden): rayjobs.ray.io is forbidden", "ask for the rights"),
        ("error: You must be logged in to the server (Unauthorized)", "sign in"),
    ],
)
def test_a_refusal_says_what_to_do(bin_folder: Path, said: str, remedy: str) -> None:
    (bin_folder / "error").write_text(said)
    with pytest.raises(ClusterError) as caught:
        client().status("job")
    assert said in caught.value.message
    assert remedy in str(caught.value.remedy)


def test_a_missing_kubectl_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no kubectl"):
        client().status("job")
