"""What is rendered says what the user meant, whatever they wrote."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cluster.kuberay.documents import render
from cluster.kuberay.naming import DNS_1035, LONGEST_RUN, dns_name
from jobs.cli import cli
from jobs.load.loader import load
from jobs.load.site_profile import load_profile
from jobs.plan.resolve import resolve

SPEC = """\
version: 1
name: {name}
stages:
  sft:
    kind: sft
    model: smollm2-135m-instruct
    dataset: {{train: [self-cognition], system: "${{env:WORDS}}"}}
    {more}
"""
SERVE = """\
  serve:
    kind: serve
    model: ${stages.sft.model}
    auth: {api_key: "${secret:SERVE_API_KEY}"}
"""
PROFILE = """\
version: 1
storage: /mnt/raysmith/runs
kubernetes:
  image: raysmith:cpu
  allow_image_tag: true
  secrets: {SERVE_API_KEY: serve-keys/api_key, HF_TOKEN: hub/token}
  storage: {claim: runs}
  workers: {cpus: 8}
"""
NASTY = [
    "plain",
    "1e-4",
    "no",
    "null",
    "0x10",
    "  around  ",
    'it\'s "so"; $HOME `id` $(id) \\ %',
    "a\nb\n",
    "\n  indented\n\n",
    "trailing \nspaces",
    "# no comment: {x} [y] & * ! | >",
    "你好 – привет \U0001f600",
    "\t\x7f\x85\u2028",
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDS", "hello")
    (tmp_path / "profile.yaml").write_text(PROFILE)
    return tmp_path


def write_spec(site: Path, name: str = "job", more: str = "") -> str:
    file = site / "job.yaml"
    file.write_text(SPEC.format(name=name, more=more))
    return str(file)


def run(site: Path, *arguments: str) -> Result:
    command = ["render", *arguments, "--profile", str(site / "profile.yaml")]
    return CliRunner().invoke(cli, command)


def rendered(site: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    result = run(site, *arguments)
    assert result.exit_code == 0, result.output
    return {document["kind"]: document for document in yaml.safe_load_all(result.stdout)}


def change_profile(site: Path, old: str, new: str) -> None:
    text = (site / "profile.yaml").read_text()
    assert old in text
    (site / "profile.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize("words", NASTY, ids=repr)
def test_the_spec_in_the_cluster_is_the_one_that_was_read(
    site: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDS", words)
    spec = write_spec(site)
    settings = ("stages.sft.training.learning_rate=2e-5",)
    config = rendered(site, spec, "--set", settings[0])["ConfigMap"]
    inner = site / "inner.yaml"
    inner.write_text(config["data"]["spec.yaml"], encoding="utf-8")
    monkeypatch.delenv("WORDS")
    outer = load(Path(spec), settings, {"WORDS": words})
    assert load(inner, (), {}).tree == outer.tree
    assert load(inner, (), {}).spec == outer.spec


@pytest.mark.parametrize("words", ['it\'s "so" $(id)', "a; rm -rf ~", "line\nline"])
def test_the_command_holds_nothing_of_the_spec(site: Path, words: str) -> None:
    spec = write_spec(site)
    job = rendered(site, spec, "--set", f"stages.sft.dataset.system={words}")["RayJob"]
    assert job["spec"]["entrypoint"] == (
        "raysmith run /etc/raysmith/spec.yaml --profile /etc/raysmith/profile.yaml "
        "--storage /mnt/raysmith/runs --no-serve"
    )


def test_a_storage_with_spaces_is_one_word(site: Path) -> None:
    spec = write_spec(site)
    job = rendered(site, spec, "--storage", "/mnt/raysmith/my runs; $x")["RayJob"]
    assert "--storage '/mnt/raysmith/my runs; $x' --no-serve" in job["spec"]["entrypoint"]


def test_stages_to_run_anew_are_named_to_the_run_that_has_them(site: Path) -> None:
    loaded = load(Path(write_spec(site)), (), {"WORDS": "hello"})
    profile = load_profile(str(site / "profile.yaml"), {})
    found = render(loaded, resolve(loaded, "/mnt/raysmith/runs"), profile, ("sft", "serve"))
    (job,) = (document for document in found if document["kind"] == "RayJob")
    assert job["spec"]["entrypoint"].endswith("--no-serve --force-stage=sft")


NAMES = ["a" * 63, "a" * 47, "v1.5_final", "v1-5-final", "0-start", "x.", "a" * 46 + ".b", "7"]


@pytest.mark.parametrize("name", NAMES)
def test_names_fit(name: str) -> None:
    made = dns_name(name, LONGEST_RUN)
    assert len(made) <= LONGEST_RUN
    assert DNS_1035.match(made)


def test_two_names_stay_two() -> None:
    assert len({dns_name(name, LONGEST_RUN) for name in [*NAMES, "a" * 62, "v1.5.final"]}) == 10


def test_a_kept_name_is_not_changed() -> None:
    assert dns_name("support-bot", LONGEST_RUN) == "support-bot"


def test_the_name_in_kubernetes_is_one_that_it_takes(site: Path) -> None:
    job = rendered(site, write_spec(site, "7.b_" + "long" * 14))["RayJob"]
    assert DNS_1035.match(job["metadata"]["name"])


def test_a_service_has_an_object_of_its_own_and_a_run_has_not_its_key(site: Path) -> None:
    spec = write_spec(site)
    Path(spec).write_text(Path(spec).read_text() + SERVE)
    found = rendered(site, spec)
    service = found["RayService"]["spec"]
    application = yaml.safe_load(service["serveConfigV2"])["applications"][0]
    assert application["import_path"] == "workloads.serve.app:build"
    assert application["args"]["spec"]["auth"]["api_key"] == "${secret:SERVE_API_KEY}"
    assert _secrets(service["rayClusterConfig"]) == {"SERVE_API_KEY", "HF_TOKEN"}
    assert _secrets(found["RayJob"]["spec"]["rayClusterSpec"]) == {"HF_TOKEN"}


def _secrets(cluster: dict[str, Any]) -> set[str]:
    container = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {variable["name"] for variable in container["env"] if "valueFrom" in variable}


def test_a_service_without_a_key_is_refused(site: Path) -> None:
    spec = write_spec(site)
    Path(spec).write_text(Path(spec).read_text() + SERVE.rpartition("    auth")[0])
    result = run(site, spec)
    assert result.exit_code == 2
    assert "job.yaml:9:" in result.output
    assert "it needs a key" in result.output


def test_a_secret_that_no_secret_holds_is_refused(site: Path) -> None:
    result = run(site, write_spec(site, more='hub_token: "${secret:OTHER}"'))
    assert result.exit_code == 2
    assert "add kubernetes.secrets: {OTHER: SECRET/KEY}" in result.output


def test_what_does_not_fit_is_refused_with_numbers(site: Path) -> None:
    result = run(site, write_spec(site, more="resources: {workers: 3}"))
    assert result.exit_code == 2
    assert "that is 2 pods with 8 CPU and 0 GPU, and the profile has at most 1" in result.output
    large = run(site, write_spec(site, more="resources: {cpus_per_worker: 9}"))
    assert "1 train worker with 9 CPU, and a pod has 8 CPU" in large.output


def test_a_relative_storage_is_refused(site: Path) -> None:
    change_profile(site, "/mnt/raysmith/runs", "./runs")
    assert "pods share no current folder" in run(site, write_spec(site)).output


def test_a_storage_beside_the_volume_is_refused(site: Path) -> None:
    change_profile(site, "/mnt/raysmith/runs", "/elsewhere/runs")
    output = run(site, write_spec(site)).output
    assert "profile.yaml:2: storage /elsewhere/runs does not lie in /mnt/raysmith" in output


def test_a_queue_makes_all_pods_at_once(site: Path) -> None:
    change_profile(site, "kubernetes:", "kubernetes:\n  queue: team")
    job = rendered(site, write_spec(site))["RayJob"]
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["suspend"] is True
    assert group["minReplicas"] == group["maxReplicas"] == group["replicas"] == 1
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  kuberay: '1.5'\n  start_deadline: 5m", "start_deadline needs KubeRay 1.6"),
        ("  kuberay: '1.5'\n  auth_from: a", "auth_from needs KubeRay 1.6"),
        ("  fault_tolerance: {backend: rocksdb}", "rocksdb needs KubeRay 1.7"),
        ("  fault_tolerance: {backend: redis}", "give both or neither"),
        ("  labels: {ray.io/cluster: x}", "choose another"),
        ("  secrets: {KEY: novalue}", "secrets"),
        ("  run_as_user: 0", "run_as_user"),
    ],
)
def test_a_wrong_profile_is_refused(site: Path, line: str, words: str) -> None:
    change_profile(
        site, "  secrets: {SERVE_API_KEY: serve-keys/api_key, HF_TOKEN: hub/token}", line
    )
    result = run(site, write_spec(site))
    assert result.exit_code == 2
    assert words in result.output


def test_no_profile_or_nothing_to_render_is_said(site: Path) -> None:
    assert "no profile" in CliRunner().invoke(cli, ["render", write_spec(site)]).output
    assert "say what to render" in run(site).output


def test_a_fault_tolerant_service_keeps_its_head(site: Path) -> None:
    line = "  fault_tolerance: {backend: redis, redis_address: 'r:1', redis_auth_from: r/p}"
    change_profile(site, "kubernetes:", f"kubernetes:\n{line}")
    spec = rendered(site, "--cluster", "shared")["RayCluster"]["spec"]
    assert spec["gcsFaultToleranceOptions"] == {
        "redisAddress": "r:1",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "r", "key": "p"}}},
    }
