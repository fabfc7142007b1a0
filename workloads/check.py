"""Looks at what a plan's stages take from the outside, before anything runs.

What is found here costs seconds; found later, it would cost a cluster's start and a half-made run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from jobs.errors import Problem, SpecError, UserError
from jobs.load.loaded import LoadedSpec
from jobs.plan.memory import Estimate, ModelShape, estimate
from jobs.plan.resolve import Plan, StagePlan, stage_key
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from workloads import WORKLOADS, load_function

_ENGINES = ("raysmith", "torch", "transformers", "peft", "deepspeed")


@dataclass
class Findings:
    """What looking at one stage's inputs brought up."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth saying and no error."""
    digests: dict[str, str] = field(default_factory=dict)
    """The inputs' content by the field that names them."""
    shape: ModelShape | None = None
    """The shape of the model that the stage starts from, where it is known."""


@dataclass(frozen=True)
class Checked:
    """A plan whose inputs are in order."""

    keys: Mapping[str, str]
    """Each stage's cache key."""
    notes: tuple[str, ...]
    digests: Mapping[str, Mapping[str, str]]
    memory: Mapping[str, Estimate] = field(default_factory=dict)
    """What each training stage will hold, where its model's shape is known."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that results follow from."""

    @property
    def digest(self) -> str:
        """Stands for all that the run's results follow from."""
        text = "\0".join(f"{name}={key}" for name, key in sorted(self.keys.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def check(loaded: LoadedSpec, plan: Plan) -> Checked:
    """Looks at datasets and models of all stages.

    Raises:
        SpecError: with everything that is wrong with them.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    keys: dict[str, str] = {}
    digests: dict[str, Mapping[str, str]] = {}
    shapes: dict[str, ModelShape | None] = {}
    versions = _versions()
    for stage in plan.stages:
        findings: Findings = load_function(WORKLOADS[stage.kind].check)(loaded, stage)
        problems += findings.problems
        notes += findings.notes
        digests[stage.name] = findings.digests
        # A stage leaves a model of the shape that it started from.
        shapes[stage.name] = findings.shape or shapes.get(stage.inputs.get("model", ""))
        # Another stage's artifact follows from that stage's key.
        inputs = findings.digests | {name: keys[source] for name, source in stage.inputs.items()}
        keys[stage.name] = stage_key(stage, plan.seed, inputs, versions)
    if problems:
        raise SpecError(problems)
    return Checked(keys, tuple(notes), digests, dict(_estimates(plan, shapes)), versions)


def _estimates(
    plan: Plan, shapes: Mapping[str, ModelShape | None]
) -> Iterator[tuple[str, Estimate]]:
    for stage in plan.stages:
        shape = shapes[stage.name]
        if shape and isinstance(stage.spec, SftSpec | GrpoSpec):
            yield stage.name, estimate(stage.spec, shape)


def _versions() -> dict[str, str]:
    def installed() -> Iterator[tuple[str, str]]:
        for name in _ENGINES:
            try:
                yield name, version(name)
            except PackageNotFoundError:
                yield name, "absent"

    return dict(installed())


def located(loaded: LoadedSpec, stage: StagePlan, path: str, error: UserError) -> list[Problem]:
    """An error as problems of the stage's field `path`; those that name a file keep it."""
    field_path = f"stages.{stage.name}.{path}"
    if not isinstance(error, SpecError):
        return [loaded.problem(field_path, error.message, error.remedy)]
    return [
        problem if problem.file else loaded.problem(field_path, problem.message, problem.remedy)
        for problem in error.problems
    ]
