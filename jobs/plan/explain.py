"""Where one value of a plan comes from: the spec, the command line, a default, or a rule."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.load.tree import KeyPath, Position, dotted, paths, value_at
from jobs.plan.derive import RULES, accumulation_steps
from jobs.plan.resolve import Plan
from jobs.plan.sweep import trial_spec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec

Layer = Literal["default", "profile", "spec", "set", "derived"]


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
    if found := _searched(loaded, plan, where):
        return found
    place = loaded.position(where)
    if place is None:
        value = value_at(resolved, where)
        is_derived = value != value_at(written, where)
        stage = where[: 3 if where[2:3] == ("trial",) and len(where) > 3 else 2]
        rules = RULES.get(str(value_at(resolved, (*stage, "kind"))), {})
        rule = rules.get(str(where[-1]))
        layer: Layer = "derived" if is_derived else "default"
        text: str = layer
        if is_derived or (value is None and rule):
            text = f"{layer}: {rule or 'follows from other values'}"
        return Explanation(value, layer, None, None, text)
    origin = _origin(place)
    if env := loaded.env_paths.get(where):
        origin += f", from {env}"
    value = value_at(resolved, where)
    return Explanation(value, place.layer, place.file, place.line, origin)


def _resolved(loaded: LoadedSpec, plan: Plan) -> dict[str, Any]:
    """The spec in full, with the plan's values, and with the accumulation that they come to."""
    content = loaded.spec.model_dump(mode="json")
    for stage in plan.stages:
        spec = stage.spec
        fields = content["stages"][stage.name] = spec.model_dump(mode="json")
        if isinstance(spec, SweepSpec):
            fields["trial"] = _trained(trial_spec(spec, {}))
        elif isinstance(spec, SftSpec | GrpoSpec):
            content["stages"][stage.name] = _trained(spec)
    return content


def _trained(spec: SftSpec | GrpoSpec) -> dict[str, Any]:
    fields = spec.model_dump(mode="json")
    steps = accumulation_steps(spec.training, spec.resources)
    fields["training"]["gradient_accumulation_steps"] = steps
    return fields


def _searched(loaded: LoadedSpec, plan: Plan, where: KeyPath) -> Explanation | None:
    """What a field of a sweep's trial is searched among; None where it is not searched."""
    if len(where) < 4 or where[2] != "trial":
        return None
    spec = plan.stage(str(where[1])).spec
    path = dotted(where[3:])
    if not isinstance(spec, SweepSpec) or path not in spec.search_space:
        return None
    place = loaded.position((*where[:2], "search_space", path))
    assert place
    domain = spec.search_space[path].model_dump(mode="json", exclude_none=True)
    return Explanation(domain, place.layer, place.file, place.line, f"searched: {_origin(place)}")


def _origin(place: Position) -> str:
    return f"{place.file}:{place.line}" if place.line else place.file


def _checked(path: str, resolved: dict[str, Any]) -> KeyPath:
    known = {dotted(where): where for where in paths(resolved)}
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        raise UserError(
            f"the plan has nothing at {path}",
            f"did you mean {near[0]}?" if near else "start with name, seed or stages",
        )
    return known[path]
