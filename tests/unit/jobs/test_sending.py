"""What `submit`, `resume` and `retry` send to a cluster, which a fake stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster.ray_jobs import Job
from jobs.cli import cli
from jobs.observed import RunStatus, StageStatus
from jobs.record import Record
from jobs.sending import job_id_of
from jobs.state import RunState
from jobs.submission import Submission
from storage.layout import Layout

URL = "http://head:8265"
JOB = """version: 1
name: sent
stages:
  sft:
    kind: sft
    model: /models/base
    dataset: {train: ["./rows.jsonl"]}
  merge: {kind: merge, model: "${stages.sft.model}"}
"""


class FakeJobs:
    """The Jobs API of a cluster that begins nothing."""

    submissions: list[tuple[str, Submission]]

    def __init__(self, address: str) -> None:
        self.address = address

    def all(self) -> list[Job]:
        return []

    def submit(
        self, job_id: str, command: str, runtime_env: Mapping[str, Any], metadata: object
    ) -> None:
        folder = Path(runtime_env["py_modules"][-1])
        sent = Submission.model_validate_json((folder / "submission.json").read_bytes())
        self.submissions.append((self.address, sent))

    def begun(self, job_id: str, timeout_s: float) -> tuple[Job, str | None]:
        return job(job_id, "RUNNING"), "/mnt/runs/sent/run-1"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Submission]]:
    """What the cluster was sent, and where to."""
    FakeJobs.submissions = []
    monkeypatch.setattr("jobs.sending.RayJobs", FakeJobs)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return FakeJobs.submissions


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a spec."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "job.yaml").write_text(JOB)
    (folder / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def job(job_id: str, state: str, digest: str = "d") -> Job:
    return Job(job_id, "sent", digest, state, "", None, None, None)


def begun(submission: Submission, root: Path, state: RunState) -> Record:
    """The run that a driver made of what was sent."""
    record = Record.create(
        Layout(root).run("sent", "run-1"), run_id="run-1", name="sent", plan_json="{}",
        spec_text=JOB, lock={"asked": submission.asked.model_dump(mode="json")}, digest="d",
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
    )  # fmt: skip
    if state is not RunState.RUNNING:
        record.finish(state)
    return record


def test_submit_passes_on_what_to_run_anew(sent: list[tuple[str, Submission]], work: Path) -> None:
    for options in (("--new",), ("--no-cache",), ("--force-stage", "merge"), ()):
        result = run("submit", "job.yaml", "--address", URL, *options)
        assert result.exit_code == 0, result.output
    choices = [submission.choice for _, submission in sent]
    assert [choice.new for choice in choices] == [True, False, False, False]
    assert [choice.forced for choice in choices] == [(), ("sft", "merge"), ("merge",), ()]
    wrong = run("submit", "job.yaml", "--address", URL, "--force-stage", "mrege")
    assert wrong.exit_code == 2
    assert "choose one of: sft, merge" in wrong.stderr


def test_resume_and_retry_submit_a_run_again_that_was_submitted(
    sent: list[tuple[str, Submission]], work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = run("submit", "job.yaml", "--address", URL, "--ship-code", "--storage", "/mnt/runs")
    assert submitted.exit_code == 0, submitted.output
    first = sent[0][1]
    begun(first, tmp_path / "mounted", RunState.STOPPED)
    monkeypatch.chdir(tmp_path)

    result = run("resume", "sent", "--storage", tmp_path / "mounted")
    assert result.exit_code == 0, result.output
    assert "run folder: /mnt/runs/sent/run-1" in result.output
    result = run(
        "retry", "--from", "merge", "--address", "http://other:8265/",
        "--storage", tmp_path / "mounted",
    )  # fmt: skip
    assert result.exit_code == 0, result.output

    (at, resumed), (other, retried) = sent[1:]
    assert (at, other) == (URL, "http://other:8265")
    assert resumed.choice.run_id == "run-1"
    assert (resumed.spec, resumed.asked) == (first.spec, first.asked)
    assert (retried.choice.run_id, retried.choice.forced) == (None, ("merge",))


def test_resume_follows_a_submitted_run_that_is_at_work(
    sent: list[tuple[str, Submission]], work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("submit", "job.yaml", "--address", URL)
    record = begun(sent[0][1], tmp_path / "runs", RunState.RUNNING)
    followed: list[RunStatus] = []

    def attach(layout: object, write: object) -> int:
        followed.append(record.status)
        return 130

    monkeypatch.setattr("jobs.attach.attach", attach)
    assert run("resume", "--storage", tmp_path / "runs").exit_code == 130
    assert (len(followed), len(sent)) == (1, 1)


def test_kuberay_refuses_what_its_restarts_would_repeat(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("submit", "job.yaml", "--backend", "kuberay", "--new")
    assert result.exit_code == 2
    assert "--no-cache" in result.stderr


def test_an_active_job_of_the_same_content_is_taken_unless_a_new_one_is_wanted() -> None:
    jobs = [job("sent-dddddddd-2", "RUNNING", "dddddddd"), job("sent-dddddddd-1", "STOPPED")]
    assert job_id_of(jobs, "sent", "dddddddd", new=False) == ("sent-dddddddd-2", False)
    assert job_id_of(jobs, "sent", "dddddddd", new=True) == ("sent-dddddddd-3", True)
    assert job_id_of(jobs, "sent", "eeeeeeee", new=False) == ("sent-eeeeeeee-1", True)
