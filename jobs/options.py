"""Arguments and options that several commands share, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from jobs.errors import ExitCode, UserError

if TYPE_CHECKING:
    from jobs.load.loaded import LoadedSpec
    from jobs.load.site_profile import LoadedProfile
    from jobs.plan.explain import Explanation
    from jobs.plan.resolve import Plan
    from storage.layout import Layout

DEFAULT_STORAGE = "./runs"

spec_argument = click.argument("spec", type=click.Path(path_type=Path))
run_argument = click.argument("run", default="", metavar="[RUN]")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Replace one value of the spec: stages.sft.training.learning_rate=1e-5. Repeatable.",
)
_PROFILE = "raysmith.profile"


def _open_profile(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
    from jobs.load.site_profile import load_profile

    ctx.meta[_PROFILE] = load_profile(name) if name else None


def current_profile() -> LoadedProfile | None:
    """The profile that the command line or the environment names."""
    found: LoadedProfile | None = click.get_current_context().meta.get(_PROFILE)
    return found


def _storage_root(ctx: click.Context, _: click.Parameter, storage: str | None) -> str:
    profile: LoadedProfile | None = ctx.meta.get(_PROFILE)
    return storage or (profile and profile.spec.storage) or DEFAULT_STORAGE


def storage_explanation(storage: str) -> Explanation:
    """Where the storage comes from: the command line, the profile, or nowhere."""
    from jobs.plan.explain import Explanation

    context, profile = click.get_current_context(), current_profile()
    if context.get_parameter_source("storage") is ParameterSource.COMMANDLINE:
        return Explanation(storage, "set", "--storage", None, "--storage")
    if profile and profile.spec.storage:
        place = profile.positions.of(("storage",))
        origin = f"{place.file}:{place.line}"
        return Explanation(storage, "profile", place.file, place.line, origin)
    return Explanation(storage, "default", None, None, "default")


profile_option = click.option(
    "--profile",
    metavar="NAME",
    envvar="RAYSMITH_PROFILE",
    is_eager=True,
    expose_value=False,
    callback=_open_profile,
    help="Where jobs run, and what they may do: a file, or the name of one in "
    "~/.config/raysmith/profiles or /etc/raysmith/profiles.",
)
storage_option = click.option(
    "--storage",
    metavar="URI",
    callback=_storage_root,
    help=f"The folder under which runs lie; the profile's, else {DEFAULT_STORAGE}.",
)
address_option = click.option(
    "--address",
    metavar="URL",
    help="A running Ray cluster: the address of its dashboard, such as http://127.0.0.1:8265. "
    "The profile's when absent.",
)


backend_option = click.option(
    "--backend",
    type=click.Choice(["ray", "kuberay"]),
    help="ray: a running cluster's Jobs API. kuberay: Kubernetes, as the profile says.",
)
ship_code_option = click.option(
    "--ship-code",
    is_flag=True,
    help="Run this machine's raysmith also where the cluster has another version of it.",
)


no_cache_option = click.option(
    "--no-cache", is_flag=True, help="Take no artifact of an earlier run."
)
force_stage_option = click.option(
    "--force-stage",
    "force_stages",
    multiple=True,
    metavar="STAGE",
    help="Run this stage anew, and what depends on it; may be given again.",
)


new_option = click.option(
    "--new", is_flag=True, help="Begin a run of its own, not go on with the same one."
)


def grace_s(profile: LoadedProfile | None) -> float:
    """Seconds that a job has to stop: as the profile says, else a profile's default."""
    from jobs.spec.fields import duration_s
    from jobs.spec.site_profile import ProfileSpec

    return duration_s((profile.spec if profile else ProfileSpec(version=1)).stop_grace)


def layout_of(storage: str) -> Layout:
    """The layout of a storage."""
    from storage.layout import Layout
    from storage.working_copy import root_of

    return Layout(root_of(storage))


def resolve_job(
    spec: Path,
    overrides: tuple[str, ...],
    storage: str = DEFAULT_STORAGE,
) -> tuple[LoadedSpec, Plan]:
    """Reads a spec and resolves it, within what the current profile allows.

    Raises:
        SpecError: with everything that is wrong with the spec, or that the profile forbids.
    """
    from jobs.load.loader import load
    from jobs.plan.policy import resolve_within

    loaded = load(spec, overrides)
    return loaded, resolve_within(loaded, storage, current_profile())


def needed_address(address: str | None) -> str:
    """The address of the cluster's Jobs API.

    Raises:
        UserError: if neither the command line nor the profile names one.
    """
    profile = current_profile()
    found = (
        address or (profile and profile.spec.address) or os.environ.get("RAY_API_SERVER_ADDRESS")
    )
    if not found:
        raise UserError(
            "no cluster is named",
            "give --address http://HOST:8265, or a --profile that has an address",
        )
    if not found.startswith(("http://", "https://")):
        raise UserError(
            f"{found!r} is not the address of a Jobs API",
            "give the dashboard's, such as http://127.0.0.1:8265",
        )
    return found.rstrip("/")


EXIT_CODES = f"""\b
Exit codes:
  {ExitCode.OK}    done
  {ExitCode.FAILED}    a stage failed, or a bug in raysmith
  {ExitCode.USER_ERROR}    the spec, the data, the model or the arguments are wrong
  {ExitCode.CLUSTER}    no cluster could be started or reached, or no service answers
  {ExitCode.INTERRUPTED}  stopped on request; the same command goes on from the last checkpoint
"""
