"""A run is asked for again from what its folder holds."""

import json
from pathlib import Path

import pytest

from jobs.asked import KEY, Submitted, again, asked_for
from jobs.errors import UserError
from jobs.load.loader import load
from jobs.load.site_profile import load_profile
from storage.layout import Layout, RunLayout

JOB = """version: 1
name: again
seed: ${env:SEED}
stages:
  sft:
    kind: sft
    model: /models/base
    dataset: {train: ["./rows.jsonl#10"]}
  serve:
    kind: serve
    model: /models/other
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """A run that was asked for in a folder, with a profile, an override and a variable."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("job.yaml").write_text(JOB)
    Path("site.yaml").write_text("version: 1\npolicy: {deadline: 2h}\n")
    overrides = ("stages.sft.model=/models/x",)
    loaded = load(Path("job.yaml"), overrides, {"SEED": "7"})
    asked = asked_for(loaded, overrides, load_profile("site.yaml", {}), no_serve=True)
    layout = Layout(tmp_path / "runs").run("again", "run-1")
    layout.folder.mkdir(parents=True)
    layout.spec.write_text(loaded.text)
    layout.lock.write_text(json.dumps({KEY: asked.model_dump(mode="json")}))
    return layout


def test_it_is_the_same_job_from_any_folder(
    run: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEED", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("work/job.yaml").unlink()
    found = again(run)
    loaded, plan = found.loaded, found.plan
    assert Path.cwd() == tmp_path
    assert loaded.spec.seed == 7
    assert loaded.base_folders[0] == str(tmp_path / "work")
    assert [stage.name for stage in plan.stages] == ["sft"]
    assert plan.stage("sft").spec.model_dump()["model"] == "/models/x"
    assert (plan.storage, plan.deadline_s) == (str(tmp_path / "runs"), 7200)
    assert found.asked.no_serve
    assert found.profile
    assert found.profile.path == tmp_path / "work" / "site.yaml"


@pytest.mark.parametrize("lock", ["{}", '{"asked": null}', "torn"])
def test_an_older_run_is_started_from_its_spec(run: RunLayout, lock: str) -> None:
    run.lock.write_text(lock)
    with pytest.raises(UserError, match="raysmith run SPEC"):
        again(run)


def test_a_submitted_run_without_its_files_here_says_where_they_are(
    run: RunLayout, tmp_path: Path
) -> None:
    sent = Submitted(
        address="http://head:8265", host="far", working_dir=str(tmp_path / "gone"),
        storage="/mnt/runs",
    )  # fmt: skip
    rewrite(run, submitted=sent.model_dump())
    with pytest.raises(UserError, match=r"(?s)from far.*gone.*same command on far; .*submit job"):
        again(run)
    (tmp_path / "gone").mkdir()
    assert again(run).asked.submitted == sent


def test_a_run_of_pods_is_submitted_to_them_again(run: RunLayout) -> None:
    rewrite(run, spec="/etc/raysmith/spec.yaml")
    with pytest.raises(UserError, match=r"(?s)one of KubeRay's.*--backend kuberay"):
        again(run)


def rewrite(run: RunLayout, **changes: object) -> None:
    """Changes how a run was asked for."""
    asked = json.loads(run.lock.read_text())[KEY]
    run.lock.write_text(json.dumps({KEY: asked | changes}))
