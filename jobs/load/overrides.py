"""`--set path=value`: one value of the spec, replaced from the command line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from jobs.errors import Problem, SpecError
from jobs.load.literal_secrets import mask
from jobs.load.spec_types import has_free_keys, options, sections, tag, under
from jobs.load.tree import (
    SET_OPTION,
    Document,
    KeyPath,
    Position,
    Value,
    child,
    dotted,
    problem_at,
    split_dotted,
    value_at,
)
from jobs.load.unknown_keys import unknown_key
from jobs.load.yaml_tree import parse, scalar
from jobs.spec import JobSpec
from jobs.spec.fields import Spec
from jobs.spec.sweep import DomainSpec

_SEARCH_SPACE = "search_space"
_SYNTAX_REMEDY = "check the brackets and quotes, and quote the whole option: --set 'a.b=[x, y]'"


def override(document: Document, settings: Sequence[str]) -> list[Problem]:
    """Puts each setting into the document, in order; what can't be put there is returned."""
    problems: list[Problem] = []
    for setting in settings:
        try:
            _apply(document, setting)
        except SpecError as error:
            problems.extend(error.problems)
    return problems


def _apply(document: Document, setting: str) -> None:
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise SpecError(
            [
                Problem(
                    f"--set {mask(setting)} is not of the form path=value",
                    "write --set stages.sft.training.learning_rate=1e-5",
                )
            ]
        )
    path = _whole_key(split_dotted(name.strip(), document.value), document.value)
    place = Position(f"{SET_OPTION} {dotted(path)}", layer="set")
    holder = _make_room(document, path, place)
    value, plain = _value(text, path, place)
    document.positions.forget(path)
    document.positions.keys[path] = place
    _place_below(document, path, value, place)
    replaced = {known for known in document.plain if known[: len(path)] == path}
    document.plain.difference_update(replaced)
    document.plain.update(plain)
    holder[path[-1]] = value


def _whole_key(path: KeyPath, tree: Value) -> KeyPath:
    """The path with a new key of a search space in one piece: `training.learning_rate`."""
    depth = 3
    if path[depth - 1 : depth] != (_SEARCH_SPACE,) or value_at(tree, path[: depth + 1]) is not None:
        return path
    has_domain = len(path) > depth + 1 and path[-1] in DomainSpec.model_fields
    end = len(path) - has_domain
    return (*path[:depth], dotted(path[depth:end]), *path[end:]) if end > depth else path


def _value(text: str, path: KeyPath, place: Position) -> tuple[Value, set[KeyPath]]:
    """The value, and the paths of its unquoted scalars."""
    text = text.strip()
    if not text.startswith(("[", "{", '"', "'")):
        return scalar(text), {path}
    try:
        parsed = parse(text, place.file)
    except SpecError as error:
        # A line and column of the value mean nothing to the shell's user.
        raise SpecError(
            [problem_at(place, path, problem.message, _SYNTAX_REMEDY) for problem in error.problems]
        ) from error
    if parsed.problems:
        raise SpecError(parsed.problems)
    return parsed.value, {(*path, *below) for below in parsed.plain}


def _place_below(document: Document, path: KeyPath, value: Value, place: Position) -> None:
    document.positions.values[path] = place
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, below in items:
        document.positions.keys[(*path, key)] = place
        _place_below(document, (*path, key), below, place)


def _make_room(document: Document, path: KeyPath, place: Position) -> Any:
    """The dict or list that holds the last key of `path`; absent sections are made."""
    annotation: Any = JobSpec
    holder = document.value
    for depth, key in enumerate(path):
        inner = under(annotation, key, holder)
        is_last = depth == len(path) - 1
        _check_step(document, path[: depth + 1], annotation, holder, place, is_last=is_last)
        if is_last:
            break
        if isinstance(holder, dict) and holder.get(str(key)) is None:
            holder[str(key)] = _new_section(annotation, key, holder)
            document.positions.values.setdefault(path[: depth + 1], place)
        annotation, holder = inner, child(holder, key)
    return holder


def _check_step(
    document: Document,
    path: KeyPath,
    annotation: Any,
    holder: Value,
    place: Position,
    *,
    is_last: bool,
) -> None:
    key, inner = path[-1], under(annotation, path[-1], holder)
    if isinstance(holder, list) and not (isinstance(key, int) and key < len(holder)):
        raise SpecError(
            [
                problem_at(
                    place,
                    path,
                    f"the list has {len(holder)} items, and no '{key}'",
                    "count from 0, or set the whole list",
                )
            ]
        )
    if not isinstance(holder, (dict, list)):
        raise SpecError(
            [
                problem_at(
                    place,
                    path,
                    f"{dotted(path[:-1])} is a single value: nothing lies below it",
                    f"set all of it: --set {dotted(path[:-1])}='{{{key}: …}}'",
                )
            ]
        )
    if inner is None:
        message, remedy = unknown_key(document.value, path)
        raise SpecError([problem_at(place, path, message, remedy)])
    is_new_domain = path[-2:-1] == (_SEARCH_SPACE,)
    if has_free_keys(annotation) and key not in holder and not (is_last or is_new_domain):
        near = difflib.get_close_matches(str(key), list(holder), n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(holder)}"
        raise SpecError([problem_at(place, path, f"there is no '{key}' in the spec", remedy)])
    if not is_last and not any(sections(inner)) and not _is_collection(inner):
        raise SpecError(
            [
                problem_at(
                    place,
                    path,
                    f"{dotted(path)} has nothing below it",
                    f"write --set {dotted(path)}=value",
                )
            ]
        )


def _is_collection(annotation: Any) -> bool:
    return any(
        getattr(option, "__origin__", None) in (dict, tuple) for option in options(annotation)
    )


def _new_section(annotation: Any, key: str | int, holder: Value) -> dict[str, Value]:
    """An empty section, with the kind or type that its default has."""
    for section in sections(annotation, holder):
        default = section.model_fields[str(key)].default
        if isinstance(default, Spec) and (name := tag(type(default))):
            return {name: getattr(default, name)}
    return {}
