"""What is wrong with a sweep's search space and metric, found before any trial runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from pydantic import JsonValue

from jobs.errors import Problem
from jobs.load.loaded import LoadedSpec
from jobs.load.tree import KeyPath
from jobs.load.unknown_keys import nearest
from jobs.plan.search_paths import field_of, path_complaint
from jobs.plan.sweep import (
    EVALUATED,
    MOST_DRAWN,
    Fit,
    TrialSpec,
    Values,
    drawn,
    fit,
    metric_names,
    trial_count,
    values_text,
)
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sweep import DomainSpec, SweepSpec

_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
"""What pydantic calls a number of the right type that is out of its bounds."""

_NO_METRIC = "learning_rate"
"""It is logged, and says nothing of how good a trial is."""


def sweep_problems(loaded: LoadedSpec) -> list[Problem]:
    """Paths that lead nowhere, values that do not fit their fields or one another, and metrics that
    no trial logs."""
    return [
        problem
        for name, stage in loaded.spec.stages.items()
        if isinstance(stage, SweepSpec)
        for problem in _problems(loaded, name, stage)
    ]


def _problems(loaded: LoadedSpec, stage: str, spec: SweepSpec) -> list[Problem]:
    problems = []
    for path in spec.search_space:
        if complaint := path_complaint(spec, stage, path):
            problems.append(loaded.problem(_entry(stage, path), *complaint, at_key=True))
    problems = problems or list(_nested_problems(loaded, stage, spec))
    if problems:
        return problems + _metric_problems(loaded, stage, spec, [spec.trial])
    for path, domain in spec.search_space.items():
        problems += _value_problems(loaded, stage, spec, path, domain)
    if problems:
        return problems + _metric_problems(loaded, stage, spec, [spec.trial])
    trials, problems = _drawn_trials(loaded, stage, spec)
    return problems + _metric_problems(loaded, stage, spec, trials or [spec.trial])


def _entry(stage: str, path: str) -> KeyPath:
    return ("stages", stage, "search_space", path)


def _nested_problems(loaded: LoadedSpec, stage: str, spec: SweepSpec) -> Iterator[Problem]:
    """Fields that are searched twice, or within a value that is searched itself."""
    fields = spec.trial.model_dump(mode="json")
    places = {path: field_of(spec.trial, fields, path) for path in spec.search_space}
    for path, place in places.items():
        for other, outer in places.items():
            if other != path and place[: len(outer)] == outer:
                message = f"{path} is part of {other}, which is searched too"
                yield loaded.problem(_entry(stage, path), message, "keep one", at_key=True)


def _value_problems(
    loaded: LoadedSpec, stage: str, spec: SweepSpec, path: str, domain: DomainSpec
) -> Iterator[Problem]:
    """Values of one field that are not of its type, or out of its bounds."""
    place = (*_entry(stage, path), domain.name)
    candidates: list[JsonValue] = list(domain.values)
    if not (domain.is_listed or domain.choice):
        low, high = domain.values
        between = low if domain.randint else (low + high) / 2
        found = fit(spec, {path: between})
        if found.of_values and found.error_types.isdisjoint(_BOUNDS):
            yield loaded.problem(place, *_other_type(found, path, domain))
            return
        if domain.randint:
            candidates[1] = high - 1
    seen = set()
    for index, value in enumerate(candidates):
        for problem in fit(spec, {path: value}).of_values:
            if (problem.message, problem.remedy) not in seen:
                seen.add((problem.message, problem.remedy))
                yield loaded.problem((*place, index), problem.message, problem.remedy)


def _other_type(found: Fit, path: str, domain: DomainSpec) -> tuple[str, str]:
    if found.error_types == {"int_type"}:
        low, high = domain.values
        remedy = f"write randint: [{low:g}, {high + 1:g}], whose last is left out, or choice"
        return f"{path} takes whole numbers alone", remedy
    expected = found.of_values[0].message.partition(", got ")[0]
    return f"{expected}, and {domain.name} draws numbers", "write choice: [...]"


def _drawn_trials(
    loaded: LoadedSpec, stage: str, spec: SweepSpec
) -> tuple[list[TrialSpec], list[Problem]]:
    """The trials that there will be, or some of those that there can be, and which do not fit."""
    count = min(trial_count(spec), MOST_DRAWN)
    trials: list[TrialSpec] = []
    misfits: list[tuple[Values, Problem]] = []
    for values in (drawn(spec, loaded.spec.seed, index) for index in range(count)):
        found = _fit_together(spec, values)
        if found.trial is not None:
            trials.append(found.trial)
        misfits += [(values, problem) for problem in (*found.of_values, *found.of_rules)]
    misfits.sort(key=lambda misfit: _kind(misfit[1]))
    problems = []
    for _, alike in groupby(misfits, key=lambda misfit: _kind(misfit[1])):
        cases = list(alike)
        problems.append(_misfit_problem(loaded, stage, cases[0], len(cases), count))
    return trials, problems


def _fit_together(spec: SweepSpec, values: Values) -> Fit:
    found = fit(spec, values)
    if found.trial is None:
        return found
    if found.trial.processes_at_once != spec.trial.processes_at_once:
        problem = Problem(
            f"a trial has {found.trial.processes_at_once} processes at once, and as written "
            f"{spec.trial.processes_at_once}, which room is made for",
            "set rollout.max_staleness in the trial, or search values above 0",
            "rollout.max_staleness",
        )
        return Fit(None, of_rules=(problem,))
    return found


def _kind(problem: Problem) -> tuple[str, str]:
    """What misfits that differ in their numbers have in common."""
    return problem.path, re.sub(r"[\d.]+", "", problem.message)


def _misfit_problem(
    loaded: LoadedSpec, stage: str, case: tuple[Values, Problem], cases: int, count: int
) -> Problem:
    values, problem = case
    text = f"{problem.path} {problem.message}"
    named = [path for path in values if re.split(r"[.\]]", path)[-1] in text] or list(values)
    place = _entry(stage, problem.path if problem.path in values else named[0])
    return loaded.problem(
        place,
        f"{cases} of {count} trials can't run: with {values_text(values, named)}, "
        f"{problem.message}",
        f"search values that go together: {problem.remedy}" if problem.remedy else None,
    )


def _metric_problems(
    loaded: LoadedSpec, stage: str, spec: SweepSpec, trials: list[TrialSpec]
) -> list[Problem]:
    """A metric that trials do not log, or that does not compare them."""
    without = [trial for trial in trials if spec.metric not in metric_names(trial)]
    place = ("stages", stage, "metric")
    names = [name for name in metric_names(trials[0]) if name != _NO_METRIC]
    listed = f"there are {', '.join(names)}"
    if spec.metric == _NO_METRIC:
        message = "the learning rate is what trials are given, and not how good they are"
        return [loaded.problem(place, message, listed)]
    if not without:
        return []
    some = len(without) < len(trials)
    which = f"{len(without)} of {len(trials)} trials" if some else "trials"
    if spec.metric in EVALUATED and not isinstance(spec.trial, GrpoSpec):
        message = f"{which} have no validation rows, and so no {spec.metric}"
        remedy = f"add `validation: 0.05` to stages.{stage}.trial.dataset"
        if "dataset.validation" in spec.search_space:
            remedy = "leave 0 out of the values of dataset.validation"
        return [loaded.problem(place, message, remedy)]
    if some:
        remedy = "search values with which all trials log it"
        return [loaded.problem(place, f"{which} do not log the metric '{spec.metric}'", remedy)]
    near = nearest(spec.metric, names)
    remedy = f"{near} {listed}" if near.startswith("did you mean") else listed
    return [loaded.problem(place, f"no trial logs a metric '{spec.metric}'", remedy)]
