"""A class by its import path, `module:Class`: looked at before a run, and loaded in it."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any

from jobs.errors import UserError
from workloads.user_code import Function, attribute, bound_names, definition, make_importable


def load_class(place: str, paths: Sequence[str], methods: Collection[str]) -> Callable[..., Any]:
    """The class at `module:Class`; the folders `paths` are appended to `sys.path`.

    Raises:
        UserError: if the module can't be imported, or has no class with these methods.
    """
    module_name, _, class_name = place.partition(":")
    make_importable(paths)
    try:
        module = import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{place!r} can't be imported: {type(error).__name__}: {error}",
            f"make `python -c 'import {module_name}'` work in the folder of the job file",
        ) from error
    found: Callable[..., Any] = attribute("class", module, class_name, inspect.isclass)
    lacking = [name for name in methods if not callable(getattr(found, name, None))]
    if lacking:
        raise _no_method(place, lacking, methods)
    return found


def check_class(
    place: str, paths: Sequence[str], methods: Collection[str], keywords: Collection[str]
) -> None:
    """Looks for the class in the module's source, without running it.

    What can't be told from the source, as where the class has a base, is left to `load_class`.

    Args:
        place: `module:Class`.
        paths: folders that the module may lie in, besides Python's own.
        methods: names that the class must define.
        keywords: names of the arguments that it will be made with.

    Raises:
        SpecError: at its place in the file, if the module's source is not Python.
        UserError: if there is no such module or class, it lacks a method or refuses a keyword.
    """
    node = definition("class", place, paths)
    if isinstance(node, Function):
        raise UserError(f"{place!r} is a function", f"make it a class with {_listed(methods)}")
    # What a base or a decorator adds can't be seen here.
    if isinstance(node, ast.ClassDef) and not (node.bases or node.decorator_list or node.keywords):
        _check_members(place, node, methods, keywords)


def _check_members(
    place: str, node: ast.ClassDef, methods: Collection[str], keywords: Collection[str]
) -> None:
    members = dict(bound_names(node.body))
    lacking = [name for name in methods if name not in members]
    if lacking:
        raise _no_method(place, lacking, methods)
    made_by = members.get("__init__")
    known: list[str] = []
    required: list[str] = []
    if isinstance(made_by, ast.FunctionDef) and not made_by.args.kwarg:
        known, required = _keywords(made_by.args)
    elif made_by:
        return
    unknown = [name for name in keywords if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"{place!r} takes no parameter {unknown[0]!r}",
            f"{hint}it takes {', '.join(known) or 'none'}",
        )
    missing = [name for name in required if name not in keywords]
    if missing:
        raise UserError(
            f"{place!r} needs the parameter {missing[0]!r}",
            f"write it into params: {{{missing[0]}: ...}}",
        )


def _keywords(args: ast.arguments) -> tuple[list[str], list[str]]:
    """The names that can be given as keywords, and those of them that must be."""
    places = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    optional = set(places[len(places) - len(args.defaults) :])
    optional |= {
        arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default
    }
    # Without the first, which is `self`.
    known = [*places[max(len(args.posonlyargs), 1) :], *(arg.arg for arg in args.kwonlyargs)]
    return known, [name for name in known if name not in optional]


def _no_method(place: str, lacking: Sequence[str], methods: Collection[str]) -> UserError:
    return UserError(f"{place!r} has no method {lacking[0]!r}", f"it needs {_listed(methods)}")


def _listed(methods: Collection[str]) -> str:
    return f"the methods {' and '.join(methods)}"
