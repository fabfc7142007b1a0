"""A plan without its services, which on Kubernetes are objects of their own."""

from __future__ import annotations

from dataclasses import replace

from jobs.plan.resolve import Plan
from jobs.spec.serve import ServeSpec


def without_services(plan: Plan) -> Plan:
    """The plan without its serve stages and without what needs them; it may have none left."""
    left_out: set[str] = set()
    for stage in plan.stages:
        if isinstance(stage.spec, ServeSpec) or left_out & set(stage.needs):
            left_out.add(stage.name)
    return replace(plan, stages=tuple(s for s in plan.stages if s.name not in left_out))
