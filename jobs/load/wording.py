"""Pydantic's complaints in words for people: one problem for each thing that is wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import ErrorDetails

from jobs.errors import Problem
from jobs.load.spec_types import annotation_at, field_at, options, sections, under
from jobs.load.tree import Document, KeyPath, Value, child, dotted, value_at
from jobs.load.unknown_keys import nearest, unknown_key
from jobs.spec import JobSpec

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_EXAMPLES = {
    "version": "version: 1",
    "name": "name: my-job",
    "stages": "stages:",
    "model": "model: smollm2-135m-instruct",
    "dataset": "dataset: {train: [./data.jsonl]}",
    "train": "train: [./data.jsonl]",
    "path": "path: ./data.jsonl",
    "rewards": "rewards: [{name: accuracy}]",
    "trial": "trial: {kind: sft, …}",
    "search_space": "search_space: {training.learning_rate: {loguniform: [1e-5, 1e-3]}}",
    "metric": "metric: eval_loss",
    "mode": "mode: min",
}
_PATTERNS = {
    "import_path": (
        "is no import path",
        "write a module without .py, a colon, and a name in it: my_rewards:brevity",
    ),
    "label": (
        "is not a valid label",
        "use up to 63 letters, digits and the signs -, _ and ., starting with a letter or digit",
    ),
}
"""What is said of a text that is not of its field's pattern: message and remedy, by field."""
_MAX_SHOWN = 60


@dataclass(frozen=True)
class _Complaint:
    """One of pydantic's errors, at a path of the tree that the user wrote."""

    error: ErrorDetails
    path: KeyPath
    branches: tuple[tuple[KeyPath, str], ...]
    """The unions on the way: where each stands, and which of its members complained."""


def problems_of(
    errors: Iterable[ErrorDetails], document: Document, silent: set[KeyPath]
) -> list[Problem]:
    """A problem for each thing that pydantic found wrong.

    Args:
        errors: of validating the document's value.
        document: what was validated.
        silent: values about which enough has been said.
    """
    complaints = _one_branch_each([_located(error, document) for error in errors])
    by_path: dict[KeyPath, list[_Complaint]] = defaultdict(list)
    for complaint in complaints:
        by_path[complaint.path].append(complaint)
    return [
        _problem(document, path, found)
        for path, found in by_path.items()
        if not _is_silent(path, found[0], silent) and not _follows(path, found, by_path)
    ]


def _located(error: ErrorDetails, document: Document) -> _Complaint:
    """Takes the names of union members out of an error's location."""
    annotation: Any = document.root or JobSpec
    tree = document.value
    path: KeyPath = ()
    branches: list[tuple[KeyPath, str]] = []
    rest = list(error["loc"])
    while rest:
        members = options_of_union(annotation)
        if len(members) > 1:
            label = str(rest.pop(0))
            if not sections(annotation) or len(sections(annotation)) < len(members):
                branches.append((path, label))
            if not rest:
                break
            annotation = _member(members, rest[0], tree)
            continue
        if rest[0] == "[key]":
            break
        key = rest.pop(0)
        annotation = under(annotation, key, tree)
        tree = child(tree, key)
        path = (*path, key)
    return _Complaint(error, path, tuple(branches))


def options_of_union(annotation: Any) -> tuple[Any, ...]:
    """The members of a union apart from null; nothing where the type is no union."""
    return () if annotation is None else options(annotation)


def _member(members: Sequence[Any], key: str | int, tree: Value) -> Any:
    """The member of a union that can hold a key of the value that was given."""
    return next((member for member in members if under(member, key, tree) is not None), members[-1])


def _one_branch_each(complaints: list[_Complaint]) -> list[_Complaint]:
    """Where a value matched one member of a union by its shape, drops what the others said."""
    unfit: dict[KeyPath, set[str]] = defaultdict(set)
    labels: dict[KeyPath, set[str]] = defaultdict(set)
    for complaint in complaints:
        for site, label in complaint.branches:
            labels[site].add(label)
            if complaint.path == site and complaint.error["type"] in (*_EXPECTED, "literal_error"):
                unfit[site].add(label)
    return [
        complaint
        for complaint in complaints
        if not any(
            label in unfit[site] and unfit[site] != labels[site]
            for site, label in complaint.branches
        )
    ]


def _is_silent(path: KeyPath, complaint: _Complaint, silent: set[KeyPath]) -> bool:
    if complaint.error["type"] in ("extra_forbidden", "missing"):
        return False
    return any(path[: len(known)] == known for known in silent)


def _follows(
    path: KeyPath, found: list[_Complaint], by_path: dict[KeyPath, list[_Complaint]]
) -> bool:
    """Whether a list only seems too short, since its items were refused."""
    return found[0].error["type"] == "too_short" and any(
        len(other) > len(path) and other[: len(path)] == path for other in by_path
    )


def _problem(document: Document, path: KeyPath, found: list[_Complaint]) -> Problem:
    error = found[0].error
    kind = error["type"]
    value = value_at(document.value, path)
    if kind == "missing":
        return _missing(document, path)
    if kind == "extra_forbidden":
        return document.problem(
            path, *unknown_key(document.value, path, document.root), at_key=True
        )
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _wrong_tag(document, path, error)
    if kind == "value_error":
        return _broken_rule(document, path, error)
    at_key = error["loc"][-1:] == ("[key]",)
    message, remedy = _wrong_value([complaint.error for complaint in found], path, value)
    return document.problem(path, message, remedy, at_key=at_key)


def _wrong_value(errors: list[ErrorDetails], path: KeyPath, value: Value) -> tuple[str, str | None]:
    kind, context = errors[0]["type"], errors[0].get("ctx", {})
    got = _shown(value)
    if kind == "literal_error" and len(errors) == 1:
        return f"expected {_unquoted(context['expected'])}, got {got}", _nearest_literal(
            value, context["expected"]
        )
    if kind in _EXPECTED or kind == "literal_error":
        return f"expected {_alternatives(errors)}, got {got}", _type_remedy(errors, path, value)
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return (
            f"must be {words} {_number(context[name])}, got {got}",
            f"choose a value that is {words} {_number(context[name])}",
        )
    if kind == "string_pattern_mismatch":
        if path[-1] in _PATTERNS and isinstance(value, str):
            message, remedy = _PATTERNS[str(path[-1])]
            return f"{_quoted(value)} {message}", remedy
        is_stage = path[:1] == ("stages",)
        name, signs = (str(path[-1]), "- and _") if is_stage else (value, "-, _ and .")
        return f"{_quoted(name)} is not a valid name", (
            f"use up to 63 lower-case letters, digits and the signs {signs}, "
            "starting with a letter or digit"
        )
    if kind == "finite_number":
        return f"expected a finite number, got {got}", "write a number, such as 1e-4"
    if kind == "string_too_short":
        return "must not be empty", "write some text here"
    if kind == "too_long":
        most = context["max_length"]
        return f"the list is too long: it takes {most} items", f"keep {most} of them"
    if kind == "too_short":
        return "must not be empty", f"give {path[-1]} at least one entry"
    return f"{errors[0]['msg'].lower()}, got {got}", None


def _missing(document: Document, path: KeyPath) -> Problem:
    holder, key = path[:-1], path[-1]
    if isinstance(key, int):
        or_text = str in options(annotation_at(document.value, holder, document.root))
        return document.problem(
            holder,
            f"the list is too short: item {key + 1} is missing",
            "add it, or write one text instead of a list" if or_text else "add it",
        )
    example = _EXAMPLES.get(key, f"{key}: …")
    if isinstance(short := value_at(document.value, holder), str):
        remedy = f"write {dotted(holder[-1:])}: {{type: {short}, {example}}}"
        return document.problem(holder, f"{short} needs '{key}'", remedy)
    if key == "model" and value_at(document.value, (*holder, "kind")) == "merge":
        example = "model: ${stages.NAME.model}"
    where = dotted(holder) or "the top of the file"
    return document.problem(
        holder, f"missing key '{key}'", f"add `{example}` to {where}", at_key=True
    )


def _wrong_tag(document: Document, path: KeyPath, error: ErrorDetails) -> Problem:
    name = error["ctx"]["discriminator"].strip("'")
    annotation = annotation_at(document.value, path, document.root)
    choices = [
        str(choice)
        for section in sections(annotation)
        for choice in get_args(section.model_fields[name].annotation)
    ]
    if error["type"] == "union_tag_not_found":
        remedy = f"add {' or '.join(f'`{name}: {choice}`' for choice in choices)}"
        return document.problem(path, f"missing key '{name}'", remedy, at_key=True)
    written = value_at(document.value, path)
    is_short = isinstance(written, str)  # such as `scheduler: asha`
    given = written if is_short else child(written, name)
    shown = _quoted(given) if isinstance(given, str) else f"({_shown(given)})"
    return document.problem(
        path if is_short else (*path, name),
        f"unknown {path[-1] if is_short else name} {shown}; there are {', '.join(choices)}",
        nearest(given.lower() if isinstance(given, str) else "", choices),
    )


def _broken_rule(document: Document, path: KeyPath, error: ErrorDetails) -> Problem:
    """A validator's own words, `what is wrong; what to do`, which name the key that is wrong."""
    text = error["msg"].removeprefix("Value error, ")
    message, _, remedy = text.partition("; ")
    return document.problem(_named_in(text, document, path), message, remedy or None)


def _named_in(text: str, document: Document, path: KeyPath) -> KeyPath:
    """The written field at or below a path that a text names: `training.eval_steps`, `rewards`.

    The first word of the text counts most, then those that can be nothing but a field's name.
    """
    written = [
        known
        for known in document.positions.keys
        if known[: len(path)] == path and field_at(document.value, known, document.root)
    ]
    first, *rest = re.findall(r"\w+(?:\.\w+)*", text)
    for word in (first, *sorted(rest, key=lambda word: not set("._") & set(word))):
        parts = tuple(word.split("."))
        if found := next((known for known in written if known[-len(parts) :] == parts), None):
            return found
    return path


def _type_remedy(errors: list[ErrorDetails], path: KeyPath, value: Value) -> str:
    kinds = {error["type"] for error in errors}
    if remedy := _remedy_at(path, value):
        return remedy
    if value is None:
        return "give it a value, or remove the key"
    if isinstance(value, str) and "tuple_type" in kinds:
        if value.startswith("[") and value.endswith("]"):
            return f"write it without quotes: {_short(value)}"
        return f"write a list: [{_short(value)}]"
    if isinstance(value, dict) and kinds == {"tuple_type"}:
        return "write a list: each item in a line of its own after `- `, or [{…}, {…}]"
    if isinstance(value, str) and kinds & {"int_type", "float_type"}:
        return _number_remedy(value, "8" if "int_type" in kinds else "0.05")
    if "bool_type" in kinds:
        return "write true or false"
    if kinds <= {"dict_type", "model_type", "model_attributes_type"}:
        return "write `key: value` lines below it, or {key: value}"
    if kinds == {"string_type"} and not isinstance(value, (dict, list)):
        return f'put it in quotes: "{_short(value)}"'
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}" if abs(value) < 10**15 else "choose a smaller number"
    return f"change it to {_alternatives(errors)}"


def _remedy_at(path: KeyPath, value: Value) -> str | None:
    """What to write in a place where something else is often written."""
    if path[-2:-1] == ("search_space",):
        values = _short(value if isinstance(value, list) else [value])
        return f"write {{choice: {values}}}, or one of grid, zip, uniform, loguniform and randint"
    if path[-1] == "scheduler":
        return "write a name: asha, hyperband, median, pbt or none"
    if isinstance(value, str) and (path[-2:-1] == ("rewards",) or path[-1] == "environment"):
        return f"write {{{'import_path' if ':' in value else 'name'}: {_short(value)}}}"
    return None


def _number_remedy(text: str, example: str) -> str:
    if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", text):
        is_short = len(text) <= _MAX_SHOWN
        return f"write it without quotes: {text}" if is_short else "choose a smaller number"
    if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", text):
        return f"write it with a point: {text.replace(',', '.')}"
    return f"write a number, such as {example}"


def _alternatives(errors: list[ErrorDetails]) -> str:
    words = [
        _EXPECTED.get(error["type"]) or _unquoted(error.get("ctx", {}).get("expected", "another"))
        for error in errors
    ]
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def _nearest_literal(value: Value, expected: str) -> str:
    choices = re.findall(r"'([^']*)'", expected)
    return nearest(str(value), choices) if choices else f"write {expected}"


def _shown(value: Value) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return f"the text {_quoted(value)}" if isinstance(value, str) else _short(value)


def _number(limit: int | float) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _quoted(value: Value) -> str:
    return f"'{_short(value)}'"


def _short(value: Value) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _unquoted(expected: str) -> str:
    return expected.replace("'", "")
