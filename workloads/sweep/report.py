"""What a sweep tells of itself: progress, a line to each trial, and its best trial as a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import yaml

from jobs.load.tree import leaves, replace, split_dotted, value_at
from jobs.observed import Progress, read_progress, timestamp, utc_now
from jobs.plan.sweep import trial_spec
from jobs.spec.dataset import SourceSpec
from jobs.spec.sweep import SweepSpec
from workloads.context import StageContext
from workloads.sweep.conductor import Conductor
from workloads.sweep.trials import Trial, Trials, TrialState

_ROWS_SHOWN = 12
_MAY_NAME_FILES = ("model", "train", "validation", "path", "chat_template")
"""Fields of a stage whose text may be a path that is looked up beside the spec."""


def best_spec(context: StageContext, spec: SweepSpec, best: Trial) -> str:
    """The best trial as a job of its own, which runs without the sweep."""
    trial = trial_spec(spec, best.values)
    stage = trial.model_dump(mode="json", exclude_defaults=True)
    if "tuner" in stage:  # its type tells what else it may have, also where it is the default
        stage["tuner"] = {"type": trial.tuner.type, **stage["tuner"]}
    for field, folder in context.inputs.items():
        place = split_dotted(field.removeprefix("trial."), stage)
        if value_at(stage, place):  # datasets are in their places already
            replace(stage, place, str(folder))
    for place, value in list(leaves(stage)):
        key = next(key for key in reversed(place) if isinstance(key, str))
        if key in _MAY_NAME_FILES and isinstance(value, str):
            replace(stage, place, _absolute(value, context.base_folders))
    stage = {"kind": spec.trial.kind, **stage}
    name = context.layout.run.folder.parent.name
    job = {
        "version": 1,
        "name": f"{name}-best"[:63],
        "seed": context.seed,
        "stages": {context.stage.name: stage},
    }
    head = (
        f"# {best.name} of the sweep '{context.stage.name}': {spec.metric} "
        f"{best.value(spec.metric):.6g} after {best.step} steps.\n"
    )
    for change in best.changes:
        head += (
            f"# From step {change['step']} on it had these values, and the weights that "
            f"trial {change['from_trial']} had then: "
            + " ".join(_values(change["values"]).split())
            + "\n"
        )
    return head + yaml.safe_dump(job, sort_keys=False, allow_unicode=True)


def _absolute(text: str, base_folders: Sequence[str]) -> str:
    """A path from the root where a text names files or a folder beside the spec, else the text."""
    source = SourceSpec.parse(text)
    for base in base_folders:
        path = Path(base, source.path)
        if path.exists() or (path.parent.is_dir() and any(path.parent.glob(path.name))):
            return f"{path.resolve()}{text.removeprefix(source.path)}"
    return text


def tell_end(context: StageContext, conductor: Conductor) -> None:
    """Tells which trial was best, and what stopping others early has saved."""
    trials = conductor.trials
    best = trials.best
    assert best
    trained = sum(trial.step for trial in trials.trials.values())
    stopped = [trial for trial in trials.ended if trial.state is TrialState.STOPPED]
    saved = sum(max((trial.max_steps or 0) - trial.step, 0) for trial in stopped)
    context.event(
        "swept", best=best.index, values=best.values, value=best.value(trials.metric),
        trials=len(trials.trials), stopped=len(stopped), steps=trained, steps_saved=saved,
    )  # fmt: skip
    share = f" ({saved / (trained + saved):.0%})" if saved else ""
    context.note(
        f"best: {line(trials, best)}\n{len(trials.trials)} trials, {len(stopped)} of them stopped "
        f"early: {trained:,} steps trained, {saved:,} saved{share}"
        + (f"; ended since {conductor.ending}" if conductor.ending else "")
    )


def progress(conductor: Conductor) -> Progress:
    """How far the sweep is, with a table of the trials at work and the best of the others."""
    trials = conductor.trials
    parts = ["ending the trials"] if conductor.ending else []
    parts += [_doing(conductor, index) for index in sorted(conductor.at_work)]
    if best := trials.best:
        parts.append(f"best {trials.metric} {best.value(trials.metric):.4g} ({best.name})")
    return Progress(
        phase=", ".join(parts),
        step=len(trials.ended),
        max_steps=conductor.proposals.count,
        unit="trials",
        updated_at=timestamp(utc_now()),
        table=_table(conductor),
    )


def _doing(conductor: Conductor, index: int) -> str:
    """What a trial is at, in a few words."""
    layout, trial = conductor.layout.trial(index), conductor.trials.trials[index]
    newest = layout.attempts
    said = read_progress(layout.attempt(newest).progress_json) if newest else None
    if said and said.step is not None:
        return f"{trial.name} step {said.step}/{said.max_steps}"
    return f"{trial.name} {said.phase if said and said.phase else 'starting'}"


def _table(conductor: Conductor) -> tuple[tuple[str, ...], ...]:
    """The trials at work and the best others, as rows of text under a header."""
    trials, spec = conductor.trials, conductor.spec
    sign = 1 if spec.mode == "min" else -1

    def rank(trial: Trial) -> tuple[bool, float, int]:
        value = trial.value(spec.metric)
        return trial.state.has_ended, inf if value is None else sign * value, trial.index

    shown = sorted(trials.trials.values(), key=rank)[:_ROWS_SHOWN]
    header = ("trial", "state", "step", spec.metric, *spec.search_space)
    return (header, *(_row(trial, spec) for trial in shown))


def _row(trial: Trial, spec: SweepSpec) -> tuple[str, ...]:
    value = trial.value(spec.metric)
    return (
        str(trial.index),
        trial.state.value,
        f"{trial.step}/{trial.max_steps}" if trial.max_steps else "-",
        "-" if value is None else f"{value:.5g}",
        *(_shown(trial.values.get(path)) for path in spec.search_space),
    )


def line(trials: Trials, trial: Trial) -> str:
    """What came of a trial, in a line."""
    value = trial.value(trials.metric)
    measured = f"{trials.metric} {value:.5g}, " if value is not None else ""
    end = f" of {trial.max_steps}" if trial.max_steps else ""
    why = f" ({trial.reason})" if trial.reason else ""
    return (
        f"{trial.name} {trial.state}{why}: {measured}step {trial.step}{end}; "
        f"{_values(trial.values)}"
    )


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {_shown(value)}" for path, value in values.items())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
