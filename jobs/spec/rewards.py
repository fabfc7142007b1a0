"""What scores a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jobs.spec.fields import Input, ModelReference, Spec

RewardName = Literal[
    "accuracy", "format", "cosine", "repetition", "soft_overlong", "length", "json_schema", "code"
]

_IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class RewardSpec(Spec):
    """One reward: a built-in one by `name`, a function by `import_path`, or a `model`."""

    name: RewardName | None = None
    """A built-in reward."""
    import_path: Annotated[str, Field(pattern=_IMPORT_PATH)] | None = None
    """A function of your own, `module:function`, of a module in the current folder or installed.
    It is called with `completions` (texts) and the rows' columns as lists, and returns a list of
    numbers, None where it has nothing to say. It may be `async`."""
    model: ModelReference | None = None
    """A reward model: a sequence classifier with one output, which reads prompt and completion."""
    weight: float = 1.0
    """Its factor in the sum."""
    label: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,62})?$")
    """Its name in logs. When absent: the built-in's, the function's or the model's name."""
    params: dict[str, Any] = {}
    """Settings of the reward, given to it as keyword arguments."""
    timeout_s: PositiveFloat = 60.0
    """Seconds that scoring one group may take; what takes longer is ended, and named."""
    workers: PositiveInt | None = None
    """Processes that score at the same time, at most; they are started as needed. When absent: 1
    for built-in rewards and reward models, 4 for `code` and functions of your own."""
    gpus_per_worker: NonNegativeInt = 0
    """GPUs of each process of a reward model."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> RewardSpec:
        given = [key for key in ("name", "import_path", "model") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(
                "a reward is one of name (built-in), import_path (your function) or model, and "
                + (f"given are {', '.join(given)}; keep one" if given else "none is given; add one")
            )
        if not self.label:
            source = self.name or (self.import_path or "").rpartition(":")[2] or "reward_model"
            object.__setattr__(self, "label", source)
        return self


def reward_inputs(rewards: Sequence[RewardSpec]) -> dict[str, Input]:
    """Reward models, which may be other stages', by field."""
    return {
        f"rewards[{index}].model": Input(reward.model or "", ("model",))
        for index, reward in enumerate(rewards)
    }


def check_labels(rewards: Sequence[RewardSpec]) -> None:
    """Raises ValueError where two rewards have one name."""
    labels = [reward.label for reward in rewards]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(
            f"two rewards are called {twice[0]!r}, and each is logged by its name; "
            "give one of them a `label`"
        )
