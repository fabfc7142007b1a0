"""The stages that run anew although an earlier run left what they would leave."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.errors import UserError
from jobs.plan.resolve import Plan


def forced_stages(plan: Plan, names: Sequence[str], *, no_cache: bool) -> tuple[str, ...]:
    """The stages named and all that depend on them, or with `no_cache` all, in the plan's order.

    Raises:
        UserError: the plan has no stage of a name.
    """
    known = [stage.name for stage in plan.stages]
    for name in names:
        if name not in known:
            raise UserError(f"there is no stage {name!r}", f"choose one of: {', '.join(known)}")
    forced: list[str] = []
    for stage in plan.stages:
        if no_cache or stage.name in names or not set(stage.needs).isdisjoint(forced):
            forced.append(stage.name)
    return tuple(forced)
