"""What a reward's function asks for, and giving it that: columns, settings, or both."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jobs.errors import UserError

SUPPLIED = frozenset({"max_completion_length", "classifier"})
"""Keyword-only parameters of built-in rewards that are filled by us, and are no settings."""


def settings_of(function: Callable[..., Any]) -> list[str]:
    """The names of a built-in reward's settings."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in SUPPLIED]


def check_parameters(label: str, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
    """Checks the names and types of the settings of a built-in reward.

    Raises:
        UserError: at the first one that the reward does not have, or that is of another type.
    """
    known = settings_of(function)
    types = typing.get_type_hints(function, include_extras=True)
    for name, value in params.items():
        if name not in known:
            raise unknown_parameter(label, name, known)
        try:
            TypeAdapter(types[name]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(
                f"reward {label!r}: {name} is {value!r}; {reason[0].lower()}{reason[1:]}",
                f"its parameters are {', '.join(known)}",
            ) from error


def unknown_parameter(label: str, name: str, known: Sequence[str]) -> UserError:
    """The error for a setting that a reward does not have."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
    return UserError(f"reward {label!r} has no parameter {name!r}", f"{hint}{listed}")


def bind(
    function: Callable[..., Any], params: Mapping[str, Any], supplied: Mapping[str, Any]
) -> Callable[..., Any]:
    """The function, to be called as `bound(completions, **columns)`.

    It is given the columns that it names, or all of them where it takes any keyword, and all as one
    mapping where it names `columns`; its settings in `params`, before columns of the same names;
    and of `supplied` what it names. A dataset's column never fills a keyword-only parameter that
    has a default: that is a setting.
    """
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    settings = {name: value for name, value in supplied.items() if name in names} | dict(params)
    not_columns = settings.keys() | {
        p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }

    def bound(completions: Sequence[str], **columns: Any) -> Any:
        offered = columns | ({"columns": columns} if "columns" in names else {})
        given = {
            name: values
            for name, values in offered.items()
            if name not in not_columns and (takes_all or name in names)
        }
        if "completions" in names:
            return function(completions=completions, **given, **settings)
        return function(completions, **given, **settings)

    return bound
