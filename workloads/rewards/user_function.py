"""A reward of the user's own, `module:function`: found without running it, then imported."""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from jobs.errors import Problem, SpecError, UserError
from workloads.rewards.parameters import unknown_parameter

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def import_function(import_path: str) -> Callable[..., Any]:
    """The function at `module:function`. Runs the module.

    Raises:
        UserError: if the module has no such function.
        Exception: whatever the module raises.
    """
    module, _, name = import_path.partition(":")
    function = getattr(import_module(module), name, None)
    if not callable(function):
        raise UserError(f"{module!r} has no function {name!r}", "check the reward's import_path")
    found: Callable[..., Any] = function
    return found


def find_function(import_path: str, paths: Sequence[str], params: Mapping[str, Any]) -> None:
    """Checks that a function exists and takes its settings, by its source alone.

    Args:
        import_path: `module:function`.
        paths: folders that the module may lie in, besides Python's own.
        params: the settings that it will be given.

    Raises:
        SpecError: at its place in the file, if the module's source is not Python.
        UserError: if there is no such module or function, or it does not take a setting.
    """
    module, _, name = import_path.partition(":")
    source = _find_module(module, paths)
    if source is None or source.suffix != ".py":
        return  # a package without a file, or a compiled module: found, and not to be read
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except SyntaxError as error:
        problem = Problem(
            f"{error.msg}: the reward's module is not Python",
            "mend this line",
            file=str(source),
            line=error.lineno,
            column=error.offset,
        )
        raise SpecError([problem]) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{str(source)!r} can't be read: {error}", "check the file") from error
    defined = dict(_definitions(tree.body))
    if name not in defined and "*" not in defined:
        functions = [key for key, node in defined.items() if isinstance(node, _Function)]
        near = difflib.get_close_matches(name, defined, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(functions) or "none"
        raise UserError(f"{source} defines no {name!r}", f"{hint}its functions are {listed}")
    node = defined.get(name)
    if isinstance(node, _Function):
        _check_params(name, node.args, params)


def _find_module(module: str, paths: Sequence[str]) -> Path | None:
    """The module's file, found as an import would but with no parent package run."""
    search: Sequence[str] | None = [*(str(Path(path).resolve()) for path in paths), *sys.path]
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), search)
        if spec is None:
            raise UserError(
                f"no module {'.'.join(parts[:depth])!r} for the reward",
                f"put {parts[0]}.py beside the spec or in the current folder, or install it",
            )
        search = list(spec.submodule_search_locations or [])
    assert spec
    return Path(spec.origin) if spec.origin else None


def _definitions(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a module's statements bind, with the statement; `*` for an import of all."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node
            case ast.Import() | ast.ImportFrom():
                for alias in node.names:
                    yield (alias.asname or alias.name).partition(".")[0], node
            case ast.Assign(targets=targets):
                yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.If() | ast.Try() | ast.With():
                parts = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
                parts += [handler.body for handler in getattr(node, "handlers", [])]
                for part in parts:
                    yield from _definitions(part)
            case _:
                pass


def _check_params(name: str, arguments: ast.arguments, params: Mapping[str, Any]) -> None:
    if arguments.kwarg:
        return
    known = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    for param in params:
        if param not in known:
            raise unknown_parameter(name, param, [arg for arg in known if arg != "completions"])
