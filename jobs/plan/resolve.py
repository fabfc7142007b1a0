"""The plan: a spec with nothing left open. A run consumes exactly this value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from jobs.errors import SpecError
from jobs.load.loaded import LoadedSpec
from jobs.load.tree import replace, split_dotted, value_at
from jobs.plan.derive import (
    resolved_evaluate,
    resolved_grpo,
    resolved_sample,
    resolved_serve,
    resolved_sft,
)
from jobs.plan.graph import edges, graph_problems, in_order, inputs
from jobs.plan.sweep_problems import sweep_problems
from jobs.spec import SCHEMA_VERSION
from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.fields import Artifact, duration_s
from jobs.spec.grpo import GrpoSpec
from jobs.spec.job import Stage
from jobs.spec.notify import NotifySpec
from jobs.spec.sample import SampleSpec
from jobs.spec.serve import ServeSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec

_PLAN_VERSION = 1

_NOT_IN_KEY = (
    "resources", "after", "retry", "stall_timeout", "hub_token", "checkpoint", "gate",
    "max_concurrent_trials", "max_failed_trials",
)  # fmt: skip
_NOT_IN_KEY_OF = {
    "training": (
        "logging_steps", "eval_steps", "per_device_eval_batch_size", "gradient_checkpointing",
    ),
    "rollout": (
        "actors", "engine", "gpus_per_actor", "cpus_per_actor", "colocate", "kv_cache",
        "gpu_memory_utilization", "max_num_seqs", "enforce_eager", "request_timeout_s",
        "start_timeout_s", "sync_timeout_s", "max_actor_restarts", "canary_tolerance",
    ),
    "engine": (
        "actors", "gpus_per_actor", "cpus_per_actor", "kv_cache", "gpu_memory_utilization",
        "max_num_seqs", "enforce_eager", "max_actor_restarts",
    ),
    "environment": ("timeout_s",),
    "rewards": ("label", "timeout_s", "workers", "gpus_per_worker"),
}  # fmt: skip
"""What only observes a part of the stage, guards it, or says where it runs: the weights come out
the same."""

_REPORTS = ("logging_steps", "eval_steps")


@dataclass(frozen=True)
class StagePlan:
    """One stage, resolved."""

    name: str
    spec: Stage
    """The stage as the user wrote it, with every derived value filled in, but for a sweep's trial:
    its values come first."""
    needs: tuple[str, ...]
    """The stages that must end well first."""
    inputs: Mapping[str, str]
    """The stage whose artifact each field takes, by field."""
    produces: Artifact
    """What the stage leaves for others."""

    @property
    def kind(self) -> str:
        """The stage's kind, such as `sft`."""
        return self.spec.kind


@dataclass(frozen=True)
class Plan:
    """A job, resolved."""

    name: str
    seed: int
    storage: str
    """The URI or folder under which runs lie."""
    base_folders: tuple[str, ...]
    """Where relative paths are looked up, the first first."""
    stages: tuple[StagePlan, ...]
    """Each behind those it needs."""
    deadline_s: float | None = None
    """Seconds after which the run commits a checkpoint and ends."""
    notify: NotifySpec | None = None
    """Who is told what becomes of the run."""

    def stage(self, name: str) -> StagePlan:
        """The stage of a name.

        Raises:
            KeyError: if there is none.
        """
        return {stage.name: stage for stage in self.stages}[name]

    def to_json(self) -> str:
        """The plan as JSON, which `from_json` reads. Secrets are in it by name only."""
        content = {
            "plan_version": _PLAN_VERSION,
            "name": self.name,
            "seed": self.seed,
            "storage": self.storage,
            "base_folders": self.base_folders,
            "stages": [_stage_to_json(stage) for stage in self.stages],
            "deadline_s": self.deadline_s,
            "notify": self.notify and self.notify.model_dump(mode="json"),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: if the text is no plan, or one of another version.
        """
        content = json.loads(text)
        version = content.get("plan_version") if isinstance(content, dict) else None
        if version != _PLAN_VERSION:
            raise ValueError(f"expected a plan of version {_PLAN_VERSION}, got {version!r}")
        return Plan(
            content["name"],
            content["seed"],
            content["storage"],
            tuple(content["base_folders"]),
            tuple(_stage_from_json(stage) for stage in content["stages"]),
            content.get("deadline_s"),
            NotifySpec.model_validate(content["notify"]) if content.get("notify") else None,
        )


def resolve(
    loaded: LoadedSpec,
    storage: str,
    deadline: str | None = None,
    notify: NotifySpec | None = None,
) -> Plan:
    """The plan of a spec. Pure: it asks nothing of the machine.

    Args:
        loaded: a valid spec.
        storage: the URI or folder under which runs lie.
        deadline: how long the run may take, such as `24h`.
        notify: who is told what becomes of it, where the spec does not say.

    Raises:
        SpecError: if stages wait for one another in a circle, or take what does not fit them, or if
            a sweep's values do not fit its trial.
    """
    if problems := graph_problems(loaded) + sweep_problems(loaded):
        raise SpecError(problems)
    needs = edges(loaded.spec)
    stages = tuple(
        _stage_plan(loaded.spec.name, name, loaded.spec.stages[name], needs[name])
        for name in in_order(needs)
    )
    limit_s = duration_s(deadline) if deadline else None
    return Plan(
        loaded.spec.name,
        loaded.spec.seed,
        storage,
        loaded.base_folders,
        stages,
        limit_s,
        loaded.spec.notify or notify,
    )


def stage_key(
    stage: StagePlan, seed: int, inputs: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """What decides a stage's artifact, as sha256 in hex: equal keys, equal artifacts.

    Args:
        stage: the stage.
        seed: the job's seed.
        inputs: digests of everything the stage reads: artifacts, models, datasets.
        versions: of the libraries that compute the artifact.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": stage.kind,
        "stage": _key_fields(stage),
        "seed": seed,
        "inputs": dict(inputs),
        "versions": dict(versions),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _key_fields(stage: StagePlan) -> dict[str, Any]:
    fields = stage.spec.model_dump(mode="json")
    _prune(fields)
    if isinstance(stage.spec, SweepSpec):
        # When trials report decides which of them go on.
        reports = {name: fields["trial"]["training"][name] for name in _REPORTS}
        _prune(fields["trial"])
        fields["trial"]["training"] |= reports
    # Another stage's artifact counts by its digest: renaming that stage changes nothing.
    for field in stage.inputs:
        path = split_dotted(field, fields)
        written = str(value_at(fields, path))
        # What stands behind it, such as the 500 of `${stages.sample.dataset}#500`, counts too.
        replace(fields, path, written.rpartition("}")[2])
    return fields


def _prune(fields: dict[str, Any]) -> None:
    """Takes out of a stage's fields what does not decide its artifact."""
    if best := _decides_on_best(fields):
        fields["best"] = best
    for name in _NOT_IN_KEY:
        fields.pop(name, None)
    for section, names in _NOT_IN_KEY_OF.items():
        found = fields.get(section) or {}
        for part in found if isinstance(found, list) else [found]:
            for name in names:
                part.pop(name, None)


def _decides_on_best(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the choice among checkpoints depends on, where the artifact is the best one."""
    checkpoint, training = fields.get("checkpoint") or {}, fields.get("training") or {}
    if not checkpoint.get("load_best_model_at_end"):
        return None
    chosen = {name: checkpoint.get(name) for name in ("metric_for_best_model", "save_steps")}
    return chosen | {"eval_steps": training.get("eval_steps")}


def _stage_plan(job: str, name: str, spec: Stage, needs: tuple[str, ...]) -> StagePlan:
    resolved = spec
    if isinstance(spec, SftSpec):
        resolved = resolved_sft(spec)
    elif isinstance(spec, GrpoSpec):
        resolved = resolved_grpo(spec)
    elif isinstance(spec, EvaluateSpec):
        resolved = resolved_evaluate(spec)
    elif isinstance(spec, SampleSpec):
        resolved = resolved_sample(spec)
    elif isinstance(spec, ServeSpec):
        resolved = resolved_serve(spec, job)
    return StagePlan(name, resolved, needs, inputs(spec), spec.produces)


def _stage_to_json(stage: StagePlan) -> dict[str, Any]:
    return {
        "name": stage.name,
        "needs": stage.needs,
        "inputs": dict(stage.inputs),
        "produces": stage.produces,
        "spec": stage.spec.model_dump(mode="json"),
    }


def _stage_from_json(content: dict[str, Any]) -> StagePlan:
    spec = TypeAdapter[Stage](Stage).validate_json(json.dumps(content["spec"]))
    return StagePlan(
        content["name"], spec, tuple(content["needs"]), content["inputs"], content["produces"]
    )
