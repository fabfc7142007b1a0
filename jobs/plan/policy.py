"""Holds a plan against the policy of the profile that it is to run under."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.errors import Problem, SpecError
from jobs.load.loaded import LoadedSpec
from jobs.load.site_profile import LoadedProfile
from jobs.load.tree import leaves
from jobs.plan.demand import demands
from jobs.plan.resolve import Plan, resolve


def resolve_within(loaded: LoadedSpec, storage: str, profile: LoadedProfile | None) -> Plan:
    """The plan of a spec under a profile's policy.

    Raises:
        SpecError: with what `resolve` finds wrong, or with everything that the policy refuses.
    """
    if not profile:
        return resolve(loaded, storage)
    plan = resolve(loaded, storage, profile.spec.policy.deadline, profile.spec.notify)
    check_policy(loaded, plan, profile)
    return plan


def check_policy(loaded: LoadedSpec, plan: Plan, profile: LoadedProfile) -> None:
    """Refuses what the policy does not allow.

    Raises:
        SpecError: with everything that it does not allow, at its place in the spec.
    """
    if problems := [*_too_many(loaded, plan, profile), *_user_code(loaded, profile)]:
        raise SpecError(problems)


def _too_many(loaded: LoadedSpec, plan: Plan, profile: LoadedProfile) -> Iterator[Problem]:
    policy = profile.spec.policy
    for demand in demands(plan):
        limits = (
            ("max_workers", policy.max_workers, demand.workers, "processes at once"),
            ("max_gpus", policy.max_gpus, demand.gpus, "GPUs at once"),
        )
        for name, most, wanted, what in limits:
            if most is not None and wanted > most:
                groups = "; ".join(map(str, demand.processes))
                yield loaded.problem(
                    f"stages.{demand.stage}.{demand.processes[0].field}",
                    f"needs {wanted:g} {what} ({groups}), and the profile allows {most}",
                    f"ask for fewer, or for a larger {name} at {profile.place(f'policy.{name}')}",
                )


def _user_code(loaded: LoadedSpec, profile: LoadedProfile) -> Iterator[Problem]:
    if profile.spec.policy.allow_user_code:
        return
    for path, value in leaves(loaded.tree):
        if path[-1:] == ("import_path",):
            yield loaded.problem(
                path,
                f"{value!r} is code of the user's own, which the profile forbids",
                "use a built-in one, or ask for allow_user_code at "
                f"{profile.place('policy.allow_user_code')}",
            )
