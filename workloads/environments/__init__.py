"""Environments by name. A new one is a class, a line here, and its name in the spec.

Calculator answers the model where it writes `<calculator>12*7</calculator>`:

    environment = load_environment(EnvironmentSpec(name="calculator"), ())()
    messages = environment.reset(prompt, columns)
    ... the model's turn is appended ...
    step = environment.step(messages)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from jobs.spec.environment import EnvironmentSpec
from workloads.data.rows import Message
from workloads.environments.user_class import check_class, load_class

ENVIRONMENTS = {"calculator": "workloads.environments.calculator:Calculator"}

METHODS = ("reset", "step")


class Step(NamedTuple):
    """What an environment answers to one turn of the model."""

    messages: list[Message]
    """What it says, with the role `user` or `tool`; the model goes on after it."""
    reward: float
    """Added to the conversation's other steps."""
    done: bool
    """Whether the conversation ends; what the environment said last then reaches no one."""


class Environment(Protocol):
    """One conversation of the model with its surroundings. Made anew for each.

    It neither calls the model nor sees token ids. Both methods may be `async`.
    """

    def reset(
        self, prompt: list[Message], columns: Mapping[str, Any]
    ) -> list[Message] | Awaitable[list[Message]]:
        """The messages to start with: usually the prompt, maybe with instructions.

        `columns` are those of the prompt's row. `prompt` is not to be changed.
        """

    def step(self, messages: list[Message]) -> Step | Awaitable[Step]:
        """The answer to the conversation so far, which ends with the model's turn."""


def load_environment(spec: EnvironmentSpec, paths: Sequence[str]) -> Callable[[], Environment]:
    """What makes an environment for each conversation.

    Args:
        spec: says which, and its keyword arguments.
        paths: folders to look for the user's module in, after those that Python looks in. They are
            appended to `sys.path`, since the module may import others later.

    Raises:
        UserError: if the module can't be imported, or has no such class.
    """
    return partial(load_class(_place(spec), paths, METHODS), **spec.params)


def check_environment(spec: EnvironmentSpec, paths: Sequence[str]) -> None:
    """Looks at what `load_environment` would load, without running any of the user's code.

    Raises:
        UserError: if there is no such module or class, it lacks a method, or `params` don't fit.
    """
    check_class(_place(spec), paths, METHODS, spec.params)


def _place(spec: EnvironmentSpec) -> str:
    place = ENVIRONMENTS[spec.name] if spec.name else spec.import_path
    assert place
    return place
