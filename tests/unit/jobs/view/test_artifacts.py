"""What runs left, and how two of them differ."""

import json
import shutil
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
from storage.manifest import JSON, MARKER_FILE, Owner

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


MADE_OF: dict[str, JSON] = {
    "inputs": [
        {"name": "model", "run": "bot/run-0", "stage": "base", "key": "k0", "digest": "a" * 64},
        {"name": "dataset.train[0]", "source": "/data/rows.jsonl", "digest": "b" * 64},
    ],
    "code": "c" * 64,
    "versions": {"torch": "2.13.0", "peft": "0.20.0"},
}


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
    commit(run.artifact("sft"), owner, {"type": "adapter", "step": 12, "made_of": MADE_OF})
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


def test_each_artifact_tells_its_inputs_code_and_versions(tmp_path: Path) -> None:
    run = make(tmp_path, "run-1")
    (told,) = json.loads(artifacts_json(run))
    assert (told["run"], told["made_of"]) == ("bot/run-1", MADE_OF)
    lines = [" ".join(line.split()) for line in artifacts_text(run).splitlines()]
    at = lines.index("sft: made in bot/run-1, key k")
    assert lines[at + 1 : at + 4] == [
        f"model bot/run-0 base {'a' * 12}",
        f"dataset.train[0] /data/rows.jsonl {'b' * 12}",
        f"code {'c' * 12}; peft 0.20.0, torch 2.13.0",
    ]


def test_an_artifact_of_an_earlier_raysmith_tells_what_is_known(tmp_path: Path) -> None:
    run = make(tmp_path, "run-1")
    marker = run.artifact("sft") / MARKER_FILE
    content = json.loads(marker.read_text())
    del content["meta"]["made_of"]
    marker.write_text(json.dumps(content))
    assert "sft: made in bot/run-1, key k\n\ncode: raysmith abc" in artifacts_text(run)
    run.plan.write_text("of another version")
    assert json.loads(artifacts_json(run))[0]["inputs"] == {}


def take(first: RunLayout, run_id: str) -> RunLayout:
    """A run that takes the first one's artifact from the cache."""
    record = Record.create(
        Layout(first.root).run("bot", run_id), run_id=run_id, name="bot", spec_text=JOB,
        plan_json=first.plan.read_text(), lock={}, digest="d2",
        stages=(StageStatus(name="sft", kind="sft"), StageStatus(name="merge", kind="merge")),
    )  # fmt: skip
    record.move("sft", StageState.CACHED, key="k", artifact=str(first.artifact("sft")))
    record.finish(RunState.STOPPED)
    return record.layout


def test_a_cached_stage_has_the_results_of_the_run_that_made_it(tmp_path: Path) -> None:
    first = make(tmp_path, "run-1")
    cached, other = take(first, "run-2"), make(tmp_path, "run-3", loss=2.25)
    (told,) = json.loads(artifacts_json(cached))
    assert (told["run"], told["cached"]) == ("bot/run-1", True)
    lines = [" ".join(line.split()) for line in difference(cached, other).splitlines()]
    assert "sft.loss 2.5 2.25" in lines
    assert not any(line.startswith("sft.loss") for line in difference(first, cached).splitlines())
    shutil.rmtree(first.artifact("sft"))
    lines = [" ".join(line.split()) for line in difference(cached, other).splitlines()]
    assert "sft.loss - 2.25" in lines


def test_two_runs_differ_in_settings_code_and_results(tmp_path: Path) -> None:
    first, second = make(tmp_path, "run-1"), make(tmp_path, "run-2", "2e-4", 2.25)
    lines = [" ".join(line.split()) for line in difference(first, second).splitlines()]
    assert "settings bot/run-1 bot/run-2" in lines
    assert any(line.endswith("learning_rate 0.0001 0.0002") for line in lines)
    assert "git_revision run-1 run-2" in lines
    assert "sft.loss 2.5 2.25" in lines
    assert not any(line.startswith("fingerprint") for line in lines)
    assert "do not differ" in difference(first, first)
