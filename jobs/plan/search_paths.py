"""The paths of a search space: which field of the trial each one leads to, and whether it may."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

from jobs.load.spec_types import is_section, options, sections, tag, under
from jobs.load.tree import KeyPath, Value, child, dotted, paths, split_dotted
from jobs.load.unknown_keys import ELSEWHERE
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sweep import PbtSpec, SweepSpec, TrialSpec

_SAME_SHAPE = "all trials ask the same of the cluster"
_FIXED = {
    r"kind|tuner\.type": ("all trials leave the same kind of artifact", "make a sweep for each"),
    r"resources(\..*)?": (_SAME_SHAPE, "set it in the trial"),
    r"rollout\.(actors|engine|colocate|\w+_per_actor|tensor_parallel_size)": (
        _SAME_SHAPE, "set it in the trial",
    ),
    r"rewards\[\d+\]\.(\w*workers?)": (_SAME_SHAPE, "set it in the trial"),
    r"checkpoint(\..*)?": ("it says what is saved, not what is learned", "set it in the trial"),
    r"hub_token": ("it opens models, and changes none", "set it in the trial"),
    r"after": ("trials wait for nothing of their own", "write `after` beside `trial`"),
}  # fmt: skip
"""What is the same for all trials, with the reason and what to do instead."""

_CHANGEABLE = tuple(
    f"training.{name}"
    for name in ("learning_rate", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2")
)
_CHANGEABLE_IN_GRPO = tuple(
    f"algorithm.{name}"
    for name in (
        "beta", "epsilon", "epsilon_high", "delta", "top_entropy_quantile",
        "rollout_importance_sampling_threshold", "ref_model_mixup_alpha", "sapo_temperature_pos",
        "sapo_temperature_neg",
    )
)  # fmt: skip


def changeable(trial: TrialSpec) -> tuple[str, ...]:
    """The fields that can change in the middle of training: numbers that shape no tensor."""
    return _CHANGEABLE + (_CHANGEABLE_IN_GRPO if isinstance(trial, GrpoSpec) else ())


def field_of(trial: TrialSpec, fields: Value, path: str) -> KeyPath:
    """The way to the field of the trial that a dotted path names.

    Args:
        trial: the stage.
        fields: the same as a tree.
        path: such as `tuner.rank`.

    Raises:
        ValueError: if it leads nowhere, or to a whole section.
    """
    where = split_dotted(path, fields)
    annotation: Any = type(trial)
    for depth, key in enumerate(where):
        holder = dotted(where[:depth])
        inner = under(annotation, key, fields)
        if inner is None:
            raise ValueError(_nothing_at(path, annotation, key))
        if isinstance(fields, list) and not (isinstance(key, int) and key < len(fields)):
            last = len(fields) - 1
            raise ValueError(f"{holder} has no item {key}; the last is {last}, counted from 0")
        if fields is None:
            raise ValueError(f"the trial has no {holder}; add it to the trial")
        if not isinstance(fields, (dict, list)):
            raise ValueError(
                f"{holder} is a single value in the trial, and nothing lies below it; write it as "
                f"a mapping there, with {key} in it"
            )
        annotation, fields = inner, child(fields, key)
    if all(is_section(option) for option in options(annotation)):
        names = [name for name in (fields or {}) if not _fixed(f"{path}.{name}")]
        example = f", such as {path}.{names[0]}" if names else ""
        raise ValueError(f"{path} is a section, and no value; name a field of it{example}")
    return where


def _nothing_at(path: str, annotation: Any, key: str | int) -> str:
    """Says so, and for which type of section there would be something."""
    for section in sections(annotation):
        if key in section.model_fields and (name := tag(section)):
            (kind,) = get_args(section.model_fields[name].annotation)
            return f"the trial has nothing at {path}; it is for {name} {kind}"
    return f"the trial has nothing at {path}"


def path_complaint(spec: SweepSpec, stage: str, path: str) -> tuple[str, str] | None:
    """What is wrong with searching a path, and what to do; None where nothing is."""
    fields = spec.trial.model_dump(mode="json")
    try:
        field_of(spec.trial, fields, path)
    except ValueError as error:
        if not (fixed := _fixed(path)):
            message, _, remedy = str(error).partition("; ")
            return message, remedy or _nearest(spec.trial, fields, stage, path)
        return fixed
    if fixed := _fixed(path):
        return fixed
    if isinstance(spec.scheduler, PbtSpec) and path not in changeable(spec.trial):
        return (
            f"pbt changes values in the middle of training, and {path} can't change then",
            f"search {', '.join(changeable(spec.trial))}; or take another scheduler",
        )
    return None


def _fixed(path: str) -> tuple[str, str] | None:
    for pattern, (reason, remedy) in _FIXED.items():
        if re.fullmatch(pattern, path):
            return f"{path} can't be searched: {reason}", remedy
    return None


def _nearest(trial: TrialSpec, fields: Value, stage: str, path: str) -> str:
    known = list(_searchable(trial, fields))
    inner = re.sub(rf"^(stages\.)?({re.escape(stage)}\.)?(trial\.)?", "", path)
    if inner in known:
        return f"paths begin inside the trial: write {inner}"
    last = re.split(r"[.\]]", inner)[-1]
    if (renamed := ELSEWHERE.get(last)) in known:
        return f"it is called {renamed} here"
    if found := next((each for each in known if each.split(".")[-1] == last), None):
        return f"did you mean '{found}'?"
    if near := difflib.get_close_matches(inner, known, n=1, cutoff=0.75):
        return f"did you mean '{near[0]}'?"
    names = {each.split(".")[-1]: each for each in reversed(known)}
    if near := difflib.get_close_matches(last, names, n=1, cutoff=0.7):
        return f"did you mean '{names[near[0]]}'?"
    return "write a path into the trial, such as training.learning_rate"


def _searchable(trial: TrialSpec, fields: Value) -> Iterator[str]:
    for where in paths(fields):
        path = dotted(where)
        try:
            field_of(trial, fields, path)
        except ValueError:
            continue
        if not _fixed(path):
            yield path
