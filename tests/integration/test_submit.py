"""`raysmith submit` on the real thing: a Ray that was started by hand, with a token."""

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.fingerprint import PACKAGES, folders
from storage.committed import newest_committed
from storage.layout import RunLayout
from tests.ray_head import Head, free_ports, ray_head

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 300


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A Ray as an operator starts it."""
    with ray_head() as started:
        yield started


@pytest.fixture
def job(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder with a spec and its rows."""
    rows = [{"query": f"{i} plus {i}?", "response": f"It is {2 * i}."} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "job.yaml").write_text(f"""
version: 1
name: sent
stages:
  sft:
    kind: sft
    model: {tiny_model}
    dataset: {{train: [./rows.jsonl]}}
    training: {{max_steps: {STEPS}, per_device_train_batch_size: 2, global_batch_size: 4}}
    checkpoint: {{save_steps: 100}}
    resources: {{workers: 2, cpus_per_worker: 1}}
""")
    return tmp_path


def test_a_job_is_submitted_once_stopped_with_a_checkpoint_and_gone_on_with(
    head: Head, job: Path
) -> None:
    to = ("--address", head.url)
    code, said = head.raysmith(job, "submit", "job.yaml", *to)
    assert code == 0, said
    job_id = said.split(":")[0]
    assert f"raysmith stop {job_id} --address {head.url}" in said
    run = RunLayout(Path(re.findall(r"run folder: (.+)", said)[0]))
    assert run.folder.is_relative_to(job / "runs"), "a relative storage is the submitter's"

    code, said = head.raysmith(job, "submit", "job.yaml", *to, "--no-wait")
    assert code == 0
    assert f"{job_id}: active already" in said

    progress = run.stage("sft").attempt(1).progress_json
    while not progress.exists() or not json.loads(progress.read_bytes()).get("step"):
        time.sleep(0.5)
    code, said = head.raysmith(job, "stop", job_id, *to)
    assert code == 0
    assert f"{job_id}: stopped" in said
    saved = newest_committed(run.stage("sft").checkpoints())
    assert saved
    assert 0 < int(str(saved.manifest.meta["step"])) < STEPS
    code, said = head.raysmith(job, "status", job_id, *to)
    assert "stopped" in said
    assert "sft" in said, "the storage is reached from here, so its stages are shown"

    code, said = head.raysmith(job, "submit", "job.yaml", *to, "--follow")
    assert code == 0, said
    assert job_id not in said
    assert f"going on from step {saved.manifest.meta['step']}" in said
    assert run.artifact("sft").is_dir(), "it is the same run"
    code, said = head.raysmith(job, "logs", *to)
    assert f"step {STEPS}/{STEPS}" in said


def test_without_the_token_nothing_is_told_and_the_token_is_never_shown(
    head: Head, job: Path, tmp_path: Path
) -> None:
    to = ("--address", head.url)
    wrong = secrets.token_hex(32)
    home = {"HOME": str(tmp_path)}
    code, said = head.raysmith(job, "submit", "job.yaml", *to, RAY_AUTH_TOKEN="", **home)
    assert (code, "asks for a token" in said) == (3, True), said
    code, said = head.raysmith(job, "submit", "job.yaml", *to, RAY_AUTH_TOKEN=wrong)
    assert (code, "refuses the token of RAY_AUTH_TOKEN" in said) == (3, True), said
    assert wrong not in said
    unset = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""}
    code, said = head.raysmith(job, "status", *to, **unset, **home)
    assert (code, "asks for a token" in said) == (3, True), said
    file = tmp_path / "token"
    file.write_text(head.token)
    code, said = head.raysmith(job, "status", *to, **unset, RAY_AUTH_TOKEN_PATH=str(file))
    assert code in (0, 2), said  # there may be no job yet


def test_other_code_is_refused_with_both_fingerprints(
    head: Head, job: Path, tmp_path: Path
) -> None:
    for package in folders():
        shutil.copytree(package, tmp_path / "other" / package.name)
    changed = tmp_path / "other" / PACKAGES[0] / "state.py"
    changed.write_text(changed.read_text() + "# another version\n")
    code, said = head.raysmith(
        job, "submit", "job.yaml", "--address", head.url, PYTHONPATH=str(tmp_path / "other")
    )
    assert code == 3
    found = re.search(r"raysmith is (\w{12}), and the submitter's is (\w{12})", said)
    assert found, said
    assert found[1] != found[2]


def test_a_broken_spec_of_a_job_is_told_before_the_command_ends(head: Head, job: Path) -> None:
    text = (job / "job.yaml").read_text()
    (job / "job.yaml").write_text(text.replace("./rows.jsonl", "/nowhere/rows.jsonl"))
    code, said = head.raysmith(job, "submit", "job.yaml", "--address", head.url)
    assert code != 0
    assert "job.yaml:8:" in said, "the file is called what the user called it"
    assert "/nowhere/rows.jsonl" in said


def test_doctor_finds_nothing_wrong_and_what_is_wrong(head: Head, job: Path) -> None:
    code, said = head.raysmith(job, "doctor", "--address", head.url, "--json")
    findings = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert code == 0, said
    assert {finding["what"] for finding in findings} == {
        "resources", "versions", "code", "clocks", "room", "storage", "gloo",
    }  # fmt: skip
    code, said = head.raysmith(job, "doctor", "--address", head.url, "--storage", "/proc/none")
    assert code == 3
    assert "FAILED   storage: /proc/none" in said
    assert "fix: name storage that every node can write" in said


def test_no_cluster_is_a_clear_error(head: Head, job: Path) -> None:
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    code, said = head.raysmith(job, "submit", "job.yaml", "--address", address)
    assert code == 3
    assert f"no Ray cluster answers at {address}" in said
