"""A reward of the user's own, `module:function`: found without running it, then imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from workloads.rewards.parameters import unknown_parameter
from workloads.user_code import Function, attribute, definition


def import_function(import_path: str) -> Callable[..., Any]:
    """The function at `module:function`. Runs the module.

    Raises:
        UserError: if the module has no such function.
        Exception: whatever the module raises.
    """
    module, _, name = import_path.partition(":")
    found: Callable[..., Any] = attribute("function", import_module(module), name, callable)
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
    node = definition("function", import_path, paths)
    if not isinstance(node, Function) or node.args.kwarg:
        return
    arguments = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    known = [name for name in arguments if name != "completions"]
    for param in params:
        if param not in known:
            raise unknown_parameter(node.name, param, known)
