"""Looks at what a sweep's trials take from the outside."""

from __future__ import annotations

import json

from jobs.errors import Problem
from jobs.load.loaded import LoadedSpec
from jobs.plan.resolve import StagePlan
from jobs.plan.sweep import MOST_DRAWN, Values, drawn, trial_count, trial_spec, values_text
from jobs.spec.sweep import SweepSpec
from workloads import WORKLOADS, load_function
from workloads.check import Findings

_OF_INPUTS = ("model", "dataset.", "rewards[", "rollout.max_", "environment.")
"""What decides which models, rows and code a trial takes, and whether they go together."""
_MOST_LOOKS = 16


def check(loaded: LoadedSpec, stage: StagePlan) -> Findings:
    """The inputs of trials must be as for a stage of their kind, whatever is drawn."""
    spec = stage.spec
    assert isinstance(spec, SweepSpec)
    look = load_function(WORKLOADS[spec.trial.kind].check)
    first = drawn(spec, loaded.spec.seed, 0)
    findings = Findings()
    for number, values in enumerate(_inputs(spec, loaded.spec.seed)):
        plan = StagePlan(
            f"{stage.name}.trial",
            trial_spec(spec, {**first, **values}),
            stage.needs,
            {field.removeprefix("trial."): name for field, name in stage.inputs.items()},
            stage.produces,
        )
        found: Findings = look(loaded, plan)
        findings.notes += [note for note in found.notes if note not in findings.notes]
        findings.problems += [
            _of_values(loaded, stage.name, problem, values)
            for problem in found.problems
            if problem not in findings.problems
        ]
        prefix = f"trial.{number}." if number else "trial."
        findings.digests |= {f"{prefix}{field}": text for field, text in found.digests.items()}
    return findings


def _inputs(spec: SweepSpec, seed: int) -> list[Values]:
    """The values of the trials' inputs that differ; a single empty one where none is searched."""
    paths = [path for path in spec.search_space if path.startswith(_OF_INPUTS)]
    found: dict[str, Values] = {}
    for index in range(min(trial_count(spec), MOST_DRAWN)):
        values = drawn(spec, seed, index)
        chosen = {path: values[path] for path in paths}
        found.setdefault(json.dumps(chosen), chosen)
        if len(found) == _MOST_LOOKS or not paths:
            break
    return list(found.values())


def _of_values(loaded: LoadedSpec, stage: str, problem: Problem, values: Values) -> Problem:
    """The problem at the searched field that it comes from, where it does."""
    inner = problem.path.removeprefix(f"stages.{stage}.trial.")
    ends = (".", "[")
    searched = next(
        (p for p in values if inner == p or inner.startswith(tuple(p + end for end in ends))), None
    )
    if searched is None or problem.file != str(loaded.path):
        return problem
    place = ("stages", stage, "search_space", searched)
    message = f"with {values_text(values, [searched])}: {problem.message}"
    return loaded.problem(place, message, problem.remedy)
