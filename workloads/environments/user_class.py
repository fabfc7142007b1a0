"""A class by its import path, `module:Class`: looked at before a run, and loaded in it."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
import tokenize
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs.errors import UserError


def load_class(place: str, paths: Sequence[str], methods: Collection[str]) -> Callable[..., Any]:
    """The class at `module:Class`; the folders `paths` are appended to `sys.path`.

    Raises:
        UserError: if the module can't be imported, or has no class with these methods.
    """
    module_name, _, class_name = place.partition(":")
    sys.path += [path for path in paths if path not in sys.path]
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{place!r} can't be imported: {type(error).__name__}: {error}",
            f"make `python -c 'import {module_name}'` work in the folder of the job file",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise _no_class(getattr(module, "__file__", module_name), class_name, vars(module))
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
        paths: folders to look for the module in, after those that Python looks in.
        methods: names that the class must define.
        keywords: names of the arguments that it will be made with.

    Raises:
        UserError: if there is no such module or class, it lacks a method or refuses a keyword.
    """
    module_name, _, class_name = place.partition(":")
    spec = _find_module(module_name, paths)
    if spec is None:
        raise UserError(
            f"no module {module_name!r} for {place!r}",
            f"put {module_name.replace('.', '/')}.py beside the job file or into the current "
            "folder, or install it",
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    body = _parse(Path(spec.origin)).body
    bound = list(_bound(body))
    names = {name for name, _ in bound}
    if not names & {class_name, "*"}:
        raise _no_class(spec.origin, class_name, names)
    nodes = [node for name, node in bound if name == class_name]
    node = nodes[0] if len(nodes) == 1 else None  # of several, any may be the one
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise UserError(f"{place!r} is a function", f"make it a class with {_listed(methods)}")
    # What a base or a decorator adds can't be seen here.
    if isinstance(node, ast.ClassDef) and not (node.bases or node.decorator_list or node.keywords):
        _check_members(place, node, methods, keywords)


def _find_module(name: str, paths: Sequence[str]) -> ModuleSpec | None:
    """Where a module is. Unlike importlib's own search, this runs no package on the way to it."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # such as __main__
        spec = None
    spec = spec or PathFinder.find_spec(top, list(paths))
    for depth in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        full_name = ".".join((top, *rest[: depth + 1]))
        spec = PathFinder.find_spec(full_name, list(spec.submodule_search_locations))
    return spec


def _parse(path: Path) -> ast.Module:
    try:
        with tokenize.open(path) as file:
            return ast.parse(file.read())
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{str(path)!r} is not Python{line}: {error.msg}", "mend it") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} can't be read: {error}", "check the file") from error


def _bound(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that a module's statements bind, as far as classes may hide behind them."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
        else:
            for field in ("body", "orelse", "handlers", "finalbody"):
                yield from _bound(getattr(node, field, []))


def _check_members(
    place: str, node: ast.ClassDef, methods: Collection[str], keywords: Collection[str]
) -> None:
    members = dict(_bound(node.body))
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


def _no_class(file: str, name: str, names: Collection[str]) -> UserError:
    near = difflib.get_close_matches(name, [n for n in names if not n.startswith("_")], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    remedy = f"{hint}the module that was found may not be the one you mean: check its path"
    return UserError(f"{file!r} has no class {name!r}", remedy)


def _no_method(place: str, lacking: Sequence[str], methods: Collection[str]) -> UserError:
    return UserError(f"{place!r} has no method {lacking[0]!r}", f"it needs {_listed(methods)}")


def _listed(methods: Collection[str]) -> str:
    return f"the methods {' and '.join(methods)}"
