"""What answers the model between its turns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jobs.spec.fields import Spec


class EnvironmentSpec(Spec):
    """An environment: a built-in one by `name`, or a class of your own by `import_path`."""

    name: Literal["calculator"] | None = None
    """A built-in environment. calculator: computes what the model writes in
    `<calculator>...</calculator>`."""
    import_path: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """A class of your own, `module:Class`, of a module in the current folder or installed."""
    params: dict[str, Any] = {}
    """Keyword arguments that it is made with."""
    max_turns: PositiveInt = 4
    """The most turns of the model; after them the conversation ends."""
    reward_weight: float = 1.0
    """Factor of the environment's own reward in the sum."""
    timeout_s: PositiveFloat = 60.0
    """Seconds that one step may take."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> EnvironmentSpec:
        if bool(self.name) == bool(self.import_path):
            raise ValueError(
                "an environment is either a name (built-in) or an import_path; give one of them"
            )
        return self
