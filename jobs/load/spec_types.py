"""Which type the spec gives to a path: the bridge between the tree a user wrote and its classes."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from jobs.load.tree import KeyPath, Value, child
from jobs.spec import JobSpec
from jobs.spec.fields import SecretReference, Spec

_TAG_FIELDS = ("kind", "type")
_SECRET_MARK = get_args(SecretReference)[1]


def options(annotation: Any) -> tuple[Any, ...]:
    """What a value may be, apart from null: the members of a union, or the one type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return options(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return tuple(option for member in members for option in options(member))
    return (annotation,)


def sections(annotation: Any, value: Value = None) -> tuple[type[Spec], ...]:
    """The spec classes among a type's options that `value` does not rule out by kind or type."""
    found = [option for option in options(annotation) if is_section(option)]
    return tuple(section for section in found if _fits(section, value))


def is_section(option: Any) -> bool:
    """Whether a type is one of the spec's classes."""
    return isinstance(option, type) and issubclass(option, Spec)


def tag(section: type[Spec]) -> str | None:
    """The field that tells a class of a union from the others, if the class has one."""
    for name in _TAG_FIELDS:
        field = section.model_fields.get(name)
        if field and get_origin(field.annotation) is Literal:
            return name
    return None


def under(annotation: Any, key: str | int, value: Value) -> Any:
    """The type of what lies under a key of a value of some type; None where the key is unknown."""
    for section in sections(annotation, value):
        if key in section.model_fields:
            return section.model_fields[str(key)].annotation
    for option in options(annotation):
        if get_origin(option) is dict and isinstance(key, str):
            return get_args(option)[1]
        if get_origin(option) is tuple and isinstance(key, int):
            return get_args(option)[0]
    return None


def annotation_at(tree: Value, path: KeyPath, root: Any = None) -> Any:
    """The type of what lies at a path; None where the path is unknown.

    `root` is the spec class that the tree is of; a job file when None.
    """
    annotation: Any = root or JobSpec
    for key in path:
        annotation = under(annotation, key, tree)
        tree = child(tree, key)
    return annotation


def field_at(tree: Value, path: KeyPath, root: Any = None) -> FieldInfo | None:
    """The field that a path names; None for list items, stages, and unknown keys."""
    annotation: Any = root or JobSpec
    for key in path[:-1]:
        annotation = under(annotation, key, tree)
        tree = child(tree, key)
    for section in sections(annotation, tree):
        if path and path[-1] in section.model_fields:
            return section.model_fields[str(path[-1])]
    return None


def is_secret(field: FieldInfo | None) -> bool:
    """Whether a field takes `${secret:NAME}` and nothing else."""
    if field is None:
        return False
    members = get_args(field.annotation)
    return _SECRET_MARK in field.metadata or any(
        _SECRET_MARK in getattr(member, "__metadata__", ()) for member in members
    )


def has_free_keys(annotation: Any) -> bool:
    """Whether the user chooses the keys, as in `stages` and `columns`."""
    return any(get_origin(option) is dict for option in options(annotation))


def fields_below(
    section: type[Spec], path: KeyPath = (), value: Value = None
) -> Iterator[tuple[KeyPath, str]]:
    """Every field of a section and of the sections in it, as (path to its section, name).

    Of sections that are one thing or another, those that `value` does not rule out.
    """
    for name, field in section.model_fields.items():
        yield path, name
        below = child(value, name)
        for inner in sections(field.annotation, below):
            yield from fields_below(inner, (*path, name), below)


def _fits(section: type[Spec], value: Value) -> bool:
    name = tag(section)
    given = value.get(name) if name and isinstance(value, dict) else None
    return given is None or given in get_args(section.model_fields[name or ""].annotation)
