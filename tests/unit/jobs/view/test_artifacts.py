"""What runs left, and how two of them differ."""

import json
from pathlib import Path

import pytest

from jobs.load.loader import load
from jobs.plan.resolve import resolve
from jobs.record import Record, StageStatus
from jobs.state import RunState, StageState
from jobs.view.artifacts import artifacts_json, artifacts_text
from jobs.view.difference import difference
from storage.commit import begin, commit
from storage.layout import Layout, RunLayout
from storage.manifest import Owner

JOB = """version: 1
name: bot
stages:
  sft:
    kind: sft
    model: /models/base
    dataset: {train: [/data/rows.jsonl]}
    training: {learning_rate: RATE}
  merge: {kind: merge, model: "${stages.sft.model}"}
"""


def make(folder: Path, run_id: str, rate: str = "1e-4", loss: float = 2.5) -> RunLayout:
    """A run of two stages, the first of which came to its end."""
    file = folder / "job.yaml"
    file.write_text(JOB.replace("RATE", rate))
    plan = resolve(load(file, (), {}), str(folder / "runs"))
    record = Record.create(
        Layout(folder / "runs").run("bot", run_id), run_id=run_id, name="bot", spec_text=JOB,
        plan_json=plan.to_json(), lock={"fingerprint": "abc", "git_revision": run_id}, digest="d",
        stages=tuple(StageStatus(name=stage.name, kind=stage.kind) for stage in plan.stages),
    )  # fmt: skip
    run, owner = record.layout, Owner(run_id=run_id, stage="sft", key="k", attempt=1)
    begin(run.artifact("sft"), owner)
    (run.artifact("sft") / "adapter.safetensors").write_bytes(b"x" * 1234)
    commit(run.artifact("sft"), owner, {"type": "adapter", "step": 12})
    record.move("sft", StageState.RUNNING, attempt=1, key="k")
    log = run.stage("sft").attempt(1).logging_jsonl
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"loss": 9.0}) + "\n" + json.dumps({"loss": loss}) + '\n{"lo')
    record.move("sft", StageState.SUCCEEDED, artifact=str(run.artifact("sft")))
    record.finish(RunState.STOPPED)
    return run


def test_artifacts_are_told_with_what_they_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make(tmp_path, "run-1")
    (told,) = json.loads(artifacts_json(run))
    assert (told["type"], told["size_bytes"], told["step"]) == ("adapter", 1234, 12)
    assert (told["key"], told["path"]) == ("k", "runs/bot/run-1/artifacts/sft")
    text = artifacts_text(run)
    assert "1.2 kB" in text
    assert "raysmith abc, spec at run-1" in text
    (run.artifact("sft") / "adapter.safetensors").write_bytes(b"x")
    assert "adapter.safetensors has 1 bytes, 1234 were committed" in artifacts_text(run)


def test_two_runs_differ_in_settings_code_and_results(tmp_path: Path) -> None:
    first, second = make(tmp_path, "run-1"), make(tmp_path, "run-2", "2e-4", 2.25)
    lines = [" ".join(line.split()) for line in difference(first, second).splitlines()]
    assert "settings bot/run-1 bot/run-2" in lines
    assert any(line.endswith("learning_rate 0.0001 0.0002") for line in lines)
    assert "git_revision run-1 run-2" in lines
    assert "sft.loss 2.5 2.25" in lines
    assert not any(line.startswith("fingerprint") for line in lines)
    assert "do not differ" in difference(first, first)
