"""What a sweep tells: the best trial as a job, progress with a table, and a line to each trial."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.load.loader import load
from jobs.observed import Progress, write_progress
from jobs.plan.resolve import StagePlan, resolve
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec
from jobs.spec.tuner import LoraSpec
from storage.manifest import Owner
from tests.unit.workloads.sweep.bench import Sweep, make_spec
from workloads.context import Cluster, StageContext
from workloads.sweep.conductor import Conductor
from workloads.sweep.report import best_spec, line, progress, tell_end
from workloads.sweep.trials import Trial, Trials, TrialState

RATE, TARGETS = "training.learning_rate", "tuner.target_modules"


@dataclass
class Told:
    """What a stage tells."""

    notes: list[str] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def event(self, kind: str, **fields: Any) -> None:
        self.events[kind] = fields


@pytest.fixture
def told() -> Told:
    return Told()


def _context(sweep: Sweep, spec: SweepSpec, told: Told, inputs: dict[str, Path]) -> StageContext:
    return StageContext(
        StagePlan("sweep", spec, (), {}, spec.produces), 7, (str(sweep.folder),),
        Owner("r1", "sweep", "key", 1), sweep.layout, sweep.layout.attempt(1),
        sweep.folder / "artifact", inputs, cast(Cluster, None), told.event, told.notes.append,
    )  # fmt: skip


def _trial(trials: Trials, index: int, loss: float, step: int = 8, **more: Any) -> Trial:
    trial = trials.start(index, {RATE: 10.0**-index, TARGETS: ["q_proj"]})
    trials.report(trial, step, 32, {"eval_loss": loss})
    trials.end(trial, TrialState(more.pop("state", "stopped")), 1.0, **more)
    return trial


def _best_job(sweep: Sweep, told: Told, trial: dict[str, Any], best: dict[str, Any],
              inputs: dict[str, Path] | None = None) -> SftSpec:  # fmt: skip
    """The stage of the job that is written for a best trial, after it was loaded and resolved."""
    for name in ("rows.jsonl", "odd#name.jsonl", "part-1.jsonl", "format"):
        (sweep.folder / name).write_text(json.dumps({"query": "a", "response": "b"}) + "\n")
    spec = make_spec(trial={"kind": "sft", **trial}, search_space={
        path: {"choice": [value]} for path, value in best.items()})  # fmt: skip
    trials = sweep.trials()
    found = trials.start(3, best)
    trials.report(found, 8, 32, {"eval_loss": 1.23456789})
    elsewhere = sweep.folder / "elsewhere" / "best.yaml"
    elsewhere.parent.mkdir()
    text = best_spec(_context(sweep, spec, told, inputs or {}), spec, found)
    elsewhere.write_text(text)
    assert text.startswith("# trial_0003 of the sweep 'sweep': eval_loss 1.23457 after 8 steps.\n")
    loaded = load(elsewhere, (), {})
    assert (loaded.spec.name, loaded.spec.seed) == ("job-best", 7)
    (stage,) = resolve(loaded, "./runs").stages
    assert isinstance(stage.spec, SftSpec)
    return stage.spec


def test_the_best_trial_is_a_job_that_finds_its_files_from_anywhere(
    sweep: Sweep, told: Told
) -> None:
    system = "Answer kindly, with few words. " * 20  # longer than a file's name may be
    trial = {
        "model": "smollm2-135m-instruct",
        "dataset": {
            "train": ["rows.jsonl#5", "odd#name.jsonl", "part-*.jsonl", "identity",
                      {"path": "./rows.jsonl", "columns": {"query": "format"}}],
            "system": system, "model_name": "format",
        },
    }  # fmt: skip
    spec = _best_job(sweep, told, trial, {RATE: 3e-4, "tuner.rank": 16, TARGETS: ["q_proj"]})
    here = sweep.folder
    assert [(s.path, s.sample) for s in spec.dataset.train_sources] == [
        (f"{here}/rows.jsonl", 5), (f"{here}/odd#name.jsonl", None),
        (f"{here}/part-*.jsonl", None), ("identity", None), (f"{here}/rows.jsonl", None),
    ]  # fmt: skip
    assert spec.dataset.train_sources[-1].columns == {"query": "format"}
    assert (spec.dataset.system, spec.dataset.model_name) == (system, "format")
    assert spec.model == "smollm2-135m-instruct"
    assert spec.training.learning_rate == 3e-4
    assert spec.tuner == LoraSpec(rank=16, target_modules=("q_proj",))


def test_references_to_other_stages_become_their_folders(sweep: Sweep, told: Told) -> None:
    trial = {"model": "${stages.first.model}", "dataset": {"train": ["rows.jsonl"]}}
    model = sweep.folder / "artifacts" / "first"
    spec = _best_job(sweep, told, trial, {RATE: 3e-4}, {"trial.model": model})
    assert spec.model == str(model)


def test_what_a_takeover_changed_is_said_in_the_job(sweep: Sweep, told: Told) -> None:
    spec, trials = make_spec(), sweep.trials()
    donor, trial = _trial(trials, 0, 2.0), _trial(trials, 1, 3.0, state="paused")
    trials.change(trial, donor, 8, {RATE: 0.5, "dataset.system": "two\nlines"})
    trial.values = {RATE: 0.001}
    text = best_spec(_context(sweep, spec, told, {}), spec, trial)
    assert text.splitlines()[1] == (
        "# From step 8 on it had these values, and the weights that trial 0 had then: "
        f"{RATE} 0.5, dataset.system two lines"
    )
    assert text.splitlines()[2] == "version: 1"


def _conductor(sweep: Sweep, spec: SweepSpec, trials: Trials, **more: Any) -> Conductor:
    def agree(*given: Any) -> str:
        return "go on"

    judge = cast(Any, SimpleNamespace(add=agree, judge=agree, end=agree, pause=agree))
    proposals = cast(Any, SimpleNamespace(count=9))
    return Conductor(
        spec, sweep.layout, trials, proposals, judge, 0.0, lambda *_: None, sweep.clock, **more
    )


def test_progress_has_those_at_work_and_the_best_of_the_others(sweep: Sweep) -> None:
    space = {RATE: {"loguniform": [1e-5, 1.0]}, TARGETS: {"choice": ["all-linear", ["q_proj"]]}}
    spec, trials = make_spec(search_space=space), sweep.trials()
    conductor = _conductor(sweep, spec, trials)
    assert progress(conductor).table == (("trial", "state", "step", "eval_loss", RATE, TARGETS),)
    for index in range(14):
        _trial(trials, index, 10.0 - index, state="finished")
    trials.start(14, {RATE: 0.1, TARGETS: "all-linear"})
    trials.start(15, {RATE: 0.1, TARGETS: "all-linear"})
    conductor.at_work = {14: 0.0, 15: 0.0}
    attempt = sweep.layout.trial(15).attempt(1)
    attempt.folder.mkdir(parents=True)
    write_progress(attempt.progress_json, Progress(step=3, max_steps=32))
    found = progress(conductor)
    assert (found.step, found.max_steps, found.unit) == (14, 9, "trials")
    assert found.phase == (
        "trial_0014 starting, trial_0015 step 3/32, best eval_loss -3 (trial_0013)"
    )
    assert len(found.table) == 13
    assert found.table[1] == ("14", "running", "-", "-", "0.1", "all-linear")
    assert found.table[3] == ("13", "finished", "8/32", "-3", "1e-13", "['q_proj']")
    conductor.ending = "enough"
    assert (progress(conductor).phase or "").startswith("ending the trials, ")
    assert Progress.model_validate_json(found.model_dump_json()).table == found.table


def test_a_line_says_what_came_of_a_trial(sweep: Sweep) -> None:
    trials = sweep.trials()
    stopped = _trial(trials, 2, 2.3456789, reason="asha: others were better")
    assert line(trials, stopped) == (
        "trial_0002 stopped (asha: others were better): eval_loss 2.3457, step 8 of 32; "
        f"{RATE} 0.01, {TARGETS} ['q_proj']"
    )
    failed = trials.start(3, {RATE: 0.1})
    trials.end(failed, TrialState.FAILED, 1.0, reason="unknown: odd")
    assert line(trials, failed) == f"trial_0003 failed (unknown: odd): step 0; {RATE} 0.1"


def test_the_end_says_what_stopping_has_saved(sweep: Sweep, told: Told) -> None:
    spec, trials = make_spec(), sweep.trials()
    _trial(trials, 0, 2.0, step=32, state="finished")
    _trial(trials, 1, 3.0, step=8)
    _trial(trials, 2, 3.0, step=8, state="failed")
    tell_end(
        _context(sweep, spec, told, {}), _conductor(sweep, spec, trials, ending="time is over")
    )
    assert told.events["swept"] | {"values": None} == {
        "best": 0, "values": None, "value": 2.0, "trials": 3, "stopped": 1, "steps": 48,
        "steps_saved": 24,
    }  # fmt: skip
    (note,) = told.notes
    assert note.startswith("best: trial_0000 finished: eval_loss 2, step 32 of 32;")
    assert note.endswith(
        "3 trials, 1 of them stopped early: 48 steps trained, 24 saved (33%); "
        "ended since time is over"
    )
