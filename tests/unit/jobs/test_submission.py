"""What is sent to a cluster is what is read there."""

from pathlib import Path

import pytest

from cluster.fingerprint import fingerprint
from jobs import submission
from jobs.asked import Submitted, asked_for
from jobs.errors import ClusterUnfit, RaysmithError, SpecError
from jobs.load.loader import load
from jobs.load.site_profile import load_profile
from jobs.submission import Choice, check_files, pack, received

JOB = """version: 1
name: sent
seed: ${env:SEED}
stages:
  sft:
    kind: sft
    model: /models/base
    dataset: {train: ["./rows.jsonl#10"]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a spec below it."""
    (tmp_path / "work" / "specs").mkdir(parents=True)
    (tmp_path / "work" / "specs" / "job.yaml").write_text(JOB)
    (tmp_path / "work" / "rows.jsonl").write_text("{}")
    return tmp_path / "work"


def send(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, ship_code: bool = False, deadline: str = "2h"
) -> None:
    """Packs the job, and puts it where a driver looks for it."""
    (folder / "site.yaml").write_text(f"version: 1\npolicy: {{deadline: {deadline}}}\n")
    loaded = load(folder / "specs" / "job.yaml", ("stages.sft.model=/models/x",), {"SEED": "7"})
    profile = load_profile(str(folder / "site.yaml"), {})
    there = folder.parent / "there"
    there.mkdir()
    submitted = Submitted(
        address="http://head:8265", host="laptop", working_dir=str(folder), storage="/mnt/runs",
        ship_code=ship_code,
    )  # fmt: skip
    overrides = ("stages.sft.model=/models/x",)
    asked = asked_for(loaded, overrides, profile, submitted=submitted)
    pack(there, loaded, asked, Choice(forced=("sft",), run_id="run-1"))
    monkeypatch.syspath_prepend(str(there))
    monkeypatch.chdir(folder)


def test_the_driver_has_the_spec_its_settings_its_environment_and_the_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEED", raising=False)
    send(folder, monkeypatch, ship_code=True)
    sent, loaded, plan = received()
    assert sent.choice == Choice(forced=("sft",), run_id="run-1")
    assert sent.asked.submitted
    assert sent.asked.spec == str(folder / "specs" / "job.yaml")
    assert (sent.spec, str(loaded.path)) == ("specs/job.yaml", "specs/job.yaml")
    assert loaded.base_folders == (str(folder / "specs"), str(folder))
    assert loaded.spec.seed == 7
    assert plan.stage("sft").spec.model_dump()["model"] == "/models/x"
    assert (plan.storage, plan.deadline_s) == ("/mnt/runs", 7200)


def test_installed_code_of_another_version_is_refused_unless_ours_is_shipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "installed_fingerprint", lambda: "f" * 64)
    send(folder, monkeypatch)
    with pytest.raises(ClusterUnfit, match=f"{'f' * 12}.*{fingerprint()[:12]}.*\n.*--ship-code"):
        received()


def test_a_process_to_which_nothing_was_sent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(RaysmithError, match="no job was sent"):
        received()


def test_files_that_would_not_be_there_are_refused(folder: Path) -> None:
    loaded = load(folder / "specs" / "job.yaml", (), {"SEED": "7"})
    loaded = load(folder / "specs" / "job.yaml", (f"stages.sft.model={folder}",), {"SEED": "7"})
    check_files(loaded, folder)
    (folder / "specs" / "rows.jsonl").touch()
    check_files(loaded, folder)
    for working_dir in (folder.parent / "elsewhere", None):
        with pytest.raises(SpecError, match=r"job.yaml:8:.*rows.jsonl is not in the working dir"):
            check_files(loaded, working_dir)
