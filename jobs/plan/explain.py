"""Where one value of a plan comes from: the spec, the command line, a default, or a rule."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.load.tree import KeyPath, dotted, paths, value_at
from jobs.plan.derive import RULES, accumulation_steps
from jobs.plan.resolve import Plan
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec

Layer = Literal["default", "spec", "set", "derived"]


@dataclass(frozen=True)
class Explanation:
    """A value and its origin."""

    value: Any
    layer: Layer
    file: str | None
    """The spec, or the `--set` option; None for defaults and derived values."""
    line: int | None
    text: str
    """The origin in words."""


def explain(loaded: LoadedSpec, plan: Plan, path: str) -> Explanation:
    """Where the value or section at a path comes from.

    Args:
        loaded: the spec.
        plan: what it resolved to.
        path: such as `stages.sft.training.learning_rate`.

    Raises:
        UserError: if the plan has nothing at that path.
    """
    written = loaded.spec.model_dump(mode="json")
    resolved = _resolved(loaded, plan)
    where = _checked(path, resolved)
    place = loaded.position(where)
    if place is None:
        value = value_at(resolved, where)
        is_derived = value != value_at(written, where)
        rules = RULES.get(str(value_at(resolved, (*where[:2], "kind"))), {})
        rule = rules.get(str(where[-1]), "follows from other values")
        layer: Layer = "derived" if is_derived else "default"
        return Explanation(
            value, layer, None, None, f"derived: {rule}" if is_derived else "default"
        )
    origin = f"{place.file}:{place.line}" if place.line else place.file
    if env := loaded.env_paths.get(where):
        origin += f", from {env}"
    value = value_at(resolved, where)
    return Explanation(value, place.layer, place.file, place.line, origin)


def _resolved(loaded: LoadedSpec, plan: Plan) -> dict[str, Any]:
    """The spec in full, with the plan's values, and with the accumulation that they come to."""
    content = loaded.spec.model_dump(mode="json")
    for stage in plan.stages:
        content["stages"][stage.name] = stage.spec.model_dump(mode="json")
        if isinstance(stage.spec, SftSpec | GrpoSpec):
            steps = accumulation_steps(stage.spec.training, stage.spec.resources)
            content["stages"][stage.name]["training"]["gradient_accumulation_steps"] = steps
    return content


def _checked(path: str, resolved: dict[str, Any]) -> KeyPath:
    known = {dotted(where): where for where in paths(resolved)}
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        raise UserError(
            f"the plan has nothing at {path}",
            f"did you mean {near[0]}?" if near else "start with name, seed or stages",
        )
    return known[path]
