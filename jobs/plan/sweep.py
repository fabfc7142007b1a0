"""The trials of a sweep: how many there are, which values each has, and what stage that makes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import JsonValue, ValidationError

from jobs.errors import Problem
from jobs.load.tree import Document, Position, Positions, Value, paths, replace
from jobs.load.wording import problems_of
from jobs.plan.derive import resolved_grpo, resolved_sft
from jobs.plan.search_paths import field_of
from jobs.spec import SCHEMA_VERSION, JobSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import DomainSpec, SweepSpec, TrialSpec

__all__ = ["TrialSpec", "Values", "drawn", "fit", "metric_names", "trial_count", "trial_spec"]

Values = Mapping[str, JsonValue]
"""What a trial has in the place of what is written, by dotted path into the trial."""

MOST_DRAWN = 1000
"""Trials whose values are looked at before any of them runs."""

_STAGE = "trial"
_PREFIX = f"stages.{_STAGE}."


@dataclass(frozen=True)
class Fit:
    """What putting values into a trial came to."""

    trial: TrialSpec | None
    """The stage with every derived value; None where there are problems."""
    of_values: tuple[Problem, ...] = ()
    """Values that are not of their fields' types. Paths are those into the trial."""
    of_rules: tuple[Problem, ...] = ()
    """Values that do not go together."""
    error_types: frozenset[str] = frozenset()
    """What pydantic calls that which is wrong."""


def trial_spec(spec: SweepSpec, values: Values) -> TrialSpec:
    """The stage of one trial, with every derived value filled in.

    Args:
        spec: the sweep.
        values: by dotted path into the trial; they are checked as strictly as a job file.

    Raises:
        ValueError: if a path leads nowhere, or the values do not fit; it says which and why.
    """
    found = fit(spec, values)
    if found.trial is None:
        raise ValueError("; ".join(_sentence(p) for p in (*found.of_values, *found.of_rules)))
    return found.trial


def fit(spec: SweepSpec, values: Values) -> Fit:
    """Puts values into the trial, and says what does not fit.

    Raises:
        ValueError: if a path leads nowhere.
    """
    fields = spec.trial.model_dump(mode="json")
    # As the paths are read in the trial as written: one value does not change where another goes.
    places = {path: field_of(spec.trial, fields, path) for path in values}
    for path, value in values.items():
        replace(fields, places[path], value)
    tree = {"version": SCHEMA_VERSION, "name": _STAGE, "stages": {_STAGE: fields}}
    try:
        job = JobSpec.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        return _misfit(tree, error, {str(place[-1]) for place in places.values()})
    return Fit(_resolved(job.stages[_STAGE]))


def _misfit(tree: dict[str, Any], error: ValidationError, searched: set[str]) -> Fit:
    top = Position("")
    document = Document(tree, Positions({(): top}, dict.fromkeys(paths(tree), top)), set())
    details = error.errors(include_url=False)
    by_rule = [
        e["type"] == "value_error" and searched.isdisjoint(map(str, e["loc"])) for e in details
    ]
    groups = [
        problems_of(
            [e for e, is_rule in zip(details, by_rule, strict=True) if is_rule == wanted],
            document,
            set(),
        )
        for wanted in (False, True)
    ]
    of_values, of_rules = (tuple(_in_trial(problem) for problem in found) for found in groups)
    return Fit(None, of_values, of_rules, frozenset(e["type"] for e in details))


def _in_trial(problem: Problem) -> Problem:
    remedy = problem.remedy.replace(_PREFIX, "") if problem.remedy else None
    path = "" if problem.path == _PREFIX.rstrip(".") else problem.path.removeprefix(_PREFIX)
    return Problem(problem.message.replace(_PREFIX, ""), remedy, path)


def _sentence(problem: Problem) -> str:
    text = f"{problem.path}: {problem.message}" if problem.path else problem.message
    return f"{text}; {problem.remedy}" if problem.remedy else text


def _resolved(stage: object) -> TrialSpec:
    if isinstance(stage, SftSpec):
        return resolved_sft(stage)
    assert isinstance(stage, GrpoSpec)
    return resolved_grpo(stage)


def trial_count(spec: SweepSpec) -> int:
    """How many trials there are at most: every combination of the lists, `num_samples` times."""
    count = math.prod(map(len, _lists(spec))) * spec.num_samples
    return min(count, spec.budget.trials or count)


def drawn(spec: SweepSpec, seed: int, index: int) -> dict[str, JsonValue]:
    """The values of a trial, which depend on the seed and its number alone.

    Args:
        spec: the sweep.
        seed: the job's seed.
        index: the trial's number, from 0. The combinations of `grid` and `zip` take turns.
    """
    listed: dict[str, JsonValue] = {}
    rest = index
    for values in reversed(_lists(spec)):
        rest, place = divmod(rest, len(values))
        listed |= values[place]
    return {
        path: listed[path] if domain.is_listed else _draw(domain, Random(f"{seed}/{path}/{index}"))
        for path, domain in spec.search_space.items()
    }


def _lists(spec: SweepSpec) -> list[list[dict[str, JsonValue]]]:
    """The lists whose values are all combined: each grid, and the values that zip pairs."""
    lists: list[list[dict[str, JsonValue]]] = [
        [{path: value} for value in domain.values]
        for path, domain in spec.search_space.items()
        if domain.grid
    ]
    if zipped := {path: domain.zip for path, domain in spec.search_space.items() if domain.zip}:
        rows = zip(*zipped.values(), strict=True)
        lists.append([dict(zip(zipped, row, strict=True)) for row in rows])
    return lists


def _draw(domain: DomainSpec, random: Random) -> JsonValue:
    if domain.randint is not None:
        return random.randrange(*domain.randint)
    if domain.uniform is not None:
        return random.uniform(*domain.uniform)
    if domain.loguniform is not None:
        low, high = domain.loguniform
        # Rounding may lead out of the bounds.
        return min(max(math.exp(random.uniform(math.log(low), math.log(high))), low), high)
    value: JsonValue = random.choice(domain.values)
    return value


def metric_names(spec: TrialSpec) -> tuple[str, ...]:
    """What a trial's `logging.jsonl` says of its training."""
    if isinstance(spec, GrpoSpec):
        return tuple(_grpo_metrics(spec))
    names = ("loss", "grad_norm", "learning_rate", "token_acc", "tokens_per_second")
    return (*names, *EVALUATED) if is_evaluated(spec) else names


EVALUATED = ("eval_loss", "eval_token_acc")
"""What is logged where there are validation rows."""


def is_evaluated(spec: TrialSpec) -> bool:
    """Whether there are rows to validate on."""
    return isinstance(spec, SftSpec) and bool(
        spec.dataset.held_out or spec.dataset.validation_sources
    )


def _grpo_metrics(spec: GrpoSpec) -> Iterator[str]:
    yield from ("reward", "reward_std", "frac_reward_zero_std")
    labels = [reward.label for reward in spec.rewards]
    for label in (*labels, *(["environment"] if spec.environment else [])):
        yield from (f"rewards/{label}/mean", f"rewards/{label}/std")
    yield from ("loss", "grad_norm", "learning_rate", "entropy")
    if spec.algorithm.beta:
        yield "kl"
    yield from (f"clip_ratio/{part}_mean" for part in ("low", "high", "region"))
    if spec.algorithm.rollout_importance_sampling_mode:
        yield from ("sampling/importance_sampling_ratio/mean", "sampling/beyond_threshold")
    yield from (f"completions/{part}_length" for part in ("mean", "min", "max"))
    yield from ("completions/clipped_ratio", "completions/failed")
    yield from ("staleness/mean", "staleness/max", "canary")
    yield from ("generation_s", "weight_sync_s", "wait_s")


def values_text(values: Values, paths: Iterable[str] | None = None) -> str:
    """Values in words: `training.learning_rate 0.0001 and tuner.rank 8`."""
    chosen: Sequence[str] = list(values if paths is None else paths)
    *first, last = [f"{path} {value_text(values[path])}" for path in chosen]
    return f"{', '.join(first)} and {last}" if first else last


def value_text(value: Value) -> str:
    """A value as it is written in a spec, with few digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
