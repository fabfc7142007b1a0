"""A user's module, which a job file names as `module:name`: found as an import would, and read.

It is looked for where Python looks for any module, and only then in the job's folders. A file of
the user's named `storage.py` or a folder `jobs` thus never hides ours in a process that runs both.
"""

from __future__ import annotations

import ast
import difflib
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from jobs.errors import Problem, SpecError, UserError

Function = ast.FunctionDef | ast.AsyncFunctionDef

_ANOTHER = "if that is not your file, give yours another name: what is installed comes first"


def make_importable(paths: Sequence[str]) -> None:
    """Has this process's imports look into these folders, after all others."""
    sys.path += [path for path in paths if path not in sys.path]


def module_file(module: str, paths: Sequence[str]) -> Path | None:
    """The file that an import of the module would read, with none of the packages around it run.

    Args:
        module: its dotted name.
        paths: folders that it may lie in, besides Python's own.

    Returns:
        None where the module is not one file: it is built in, a folder, or in an archive.

    Raises:
        UserError: if there is no such module.
    """
    before, parts = sys.path.copy(), module.split(".")
    spec: ModuleSpec | None = None
    make_importable(paths)
    try:
        for depth in range(1, len(parts) + 1):
            above, spec = spec, _spec(".".join(parts[:depth]), spec)
            if spec is None:
                raise _no_module(module, above)
    finally:
        sys.path[:] = before
    file = Path((spec and spec.origin) or "")
    return file if file.is_file() else None


def definition(kind: str, place: str, paths: Sequence[str]) -> ast.AST | None:
    """What defines the object at `module:name`, from the module's source alone.

    Args:
        kind: what is looked for, `class` or `function`. It is for the message alone.
        place: `module:name`.
        paths: folders that the module may lie in, besides Python's own.

    Returns:
        None where the source can't tell: there is none, or several statements bind the name.

    Raises:
        SpecError: at its place in the file, if the module's source is not Python.
        UserError: if there is no such module, it can't be read, or it has no such name.
    """
    module, _, name = place.partition(":")
    file = module_file(module, paths)
    if file is None or file.suffix != ".py":
        return None
    bound = list(bound_names(_parsed(file).body))
    found = [node for key, node in bound if key == name]
    if not found and not {"*", "__getattr__"} & {key for key, _ in bound}:
        defined = [key for key, node in bound if isinstance(node, Function | ast.ClassDef)]
        raise _not_defined(kind, name, str(file), defined)
    return found[0] if len(found) == 1 else None


def bound_names(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Names that statements bind, with the node that does it; `*` for an import of all."""
    waiting: deque[ast.AST] = deque(body)
    while waiting:
        match node := waiting.popleft():
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node
            case ast.alias():
                yield (node.asname or node.name).partition(".")[0], node
            case ast.Name(ctx=ast.Store()):
                yield node.id, node
            case _:
                waiting.extend(ast.iter_child_nodes(node))


def attribute(kind: str, module: ModuleType, name: str, is_kind: Callable[[Any], bool]) -> Any:
    """The object of this name in a module that was run.

    Raises:
        UserError: if there is none, or it is not of the kind.
    """
    found = getattr(module, name, None)
    if is_kind(found):
        return found
    others = [key for key, value in vars(module).items() if is_kind(value)]
    raise _not_defined(kind, name, getattr(module, "__file__", None) or module.__name__, others)


def _spec(name: str, above: ModuleSpec | None) -> ModuleSpec | None:
    """Where a module is, in the package `above` if any. `importlib`'s search would run that one."""
    search = list(above.submodule_search_locations or []) if above else None
    found = (finder.find_spec(name, search) for finder in sys.meta_path)
    return next((spec for spec in found if spec), None)


def _no_module(module: str, above: ModuleSpec | None) -> UserError:
    remedy = f"put {module.replace('.', '/')}.py beside the job file or into the current folder"
    if above and above.origin:
        found = f": {above.name!r} is {above.origin}"
        return UserError(f"no module {module!r}{found}", f"{remedy}, or install it; {_ANOTHER}")
    return UserError(f"no module {module!r}", f"{remedy}, or install it")


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        problem = Problem(
            f"{error.msg}: this is not Python",
            "mend this line",
            file=str(file),
            line=error.lineno,
            column=error.offset,
        )
        raise SpecError([problem]) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} can't be read: {error}", "check the file") from error


def _not_defined(kind: str, name: str, file: str, names: Sequence[str]) -> UserError:
    public = [key for key in names if not key.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = textwrap.shorten(", ".join(public) or "nothing", 200, placeholder=" ...")
    return UserError(f"{file} has no {kind} {name!r}", f"{hint}it defines {listed}; {_ANOTHER}")
