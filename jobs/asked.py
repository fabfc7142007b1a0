"""How a run was asked for, kept in its folder, so that it can be asked for again from anywhere."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import UserError
from jobs.load.loaded import LoadedSpec
from jobs.load.loader import load
from jobs.load.site_profile import LoadedProfile, load_profile
from jobs.plan.policy import resolve_within
from jobs.plan.resolve import Plan
from jobs.plan.unserved import without_services
from storage.layout import RunLayout
from storage.working_copy import place_of

KEY = "asked"
"""Under which it is in `lock.json`."""


class Submitted(BaseModel):
    """Where a run was sent to, of one that `raysmith submit` began."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    address: str
    """The cluster's Jobs API."""
    host: str
    """The machine that it was submitted from."""
    working_dir: str | None
    """The folder there whose files went along."""
    storage: str
    """The storage, as the cluster knows it."""
    ship_code: bool = False
    """Whether the submitter's code runs also where the cluster has another version."""


class Asked(BaseModel):
    """What a run was made of besides the text of its spec."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    spec: str
    """The file of the spec; relative paths are looked up beside it."""
    folder: str
    """The folder it was asked for in, where they are looked up too."""
    overrides: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    """What the spec and the profile read from the environment."""
    profile: str | None = None
    """The file of the profile."""
    profile_text: str | None = None
    no_serve: bool = False
    """Whether services were left out."""
    submitted: Submitted | None = None
    """Set where it was sent to a cluster."""


def asked_for(
    loaded: LoadedSpec,
    overrides: tuple[str, ...],
    profile: LoadedProfile | None,
    *,
    no_serve: bool = False,
    submitted: Submitted | None = None,
) -> Asked:
    """How this process asks for a run."""
    return Asked(
        spec=str(loaded.path.absolute()),
        # What travels is the driver's current folder.
        folder=(submitted and submitted.working_dir) or str(Path.cwd()),
        overrides=overrides,
        environment={**loaded.environment, **(profile.environment if profile else {})},
        profile=str(profile.path.absolute()) if profile else None,
        profile_text=profile.text if profile else None,
        no_serve=no_serve,
        submitted=submitted,
    )


@dataclass(frozen=True)
class Again:
    """The job of an earlier run."""

    loaded: LoadedSpec
    plan: Plan
    profile: LoadedProfile | None
    asked: Asked


def again(run: RunLayout) -> Again:
    """The job of an earlier run, from what its folder holds, in the same storage.

    Raises:
        UserError: the run is of a raysmith that did not keep how it was asked for, or the files
            that went along with it are not on this machine.
        SpecError: the spec is not valid here and now.
    """
    asked = _read(run)
    _refuse_pods(run, asked)
    _refuse_elsewhere(run, asked)
    environ = {**os.environ, **asked.environment}
    folder = asked.folder if Path(asked.folder).is_dir() else "."
    with chdir(folder):
        loaded = load(run.spec, asked.overrides, environ, named=Path(asked.spec))
    profile = profile_of(asked, environ)
    plan = resolve_within(loaded, str(place_of(run.root) or run.root), profile)
    return Again(loaded, without_services(plan) if asked.no_serve else plan, profile, asked)


def profile_of(asked: Asked, environ: Mapping[str, str]) -> LoadedProfile | None:
    """The profile that was asked with, from its text.

    Raises:
        SpecError: it is not valid in this environment.
    """
    if asked.profile is None or asked.profile_text is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(asked.profile_text)
        file.flush()
        return load_profile(file.name, environ, named=Path(asked.profile))


def _read(run: RunLayout) -> Asked:
    try:
        return Asked.model_validate(json.loads(run.lock.read_bytes())[KEY])
    except (FileNotFoundError, KeyError, ValueError, ValidationError) as error:
        raise UserError(
            f"{run.lock} does not tell how the run was asked for",
            "start it from its spec: raysmith run SPEC, or raysmith submit SPEC",
        ) from error


def _refuse_elsewhere(run: RunLayout, asked: Asked) -> None:
    """Refuses a submitted run whose files would have to travel again, and are not here."""
    sent = asked.submitted
    if sent and sent.working_dir and not Path(sent.working_dir).is_dir():
        raise UserError(
            f"run {run.full_name} was submitted from {sent.host}, and the files that went along "
            f"are not on this machine: there is no folder {sent.working_dir}",
            f"give the same command on {sent.host}; or where its spec and files are: raysmith "
            f"submit {Path(asked.spec).name} --address {sent.address} --storage {sent.storage}",
        )


def _refuse_pods(run: RunLayout, asked: Asked) -> None:
    """Refuses a run of KubeRay's outside its pods, which alone have its spec and its image."""
    from cluster.kuberay.pods import CONFIG_PATH

    if Path(asked.spec).is_relative_to(CONFIG_PATH) and not Path(asked.spec).exists():
        raise UserError(
            f"run {run.full_name} is one of KubeRay's, in pods of its own",
            "submit its spec again, which goes on with it: raysmith submit SPEC --backend kuberay "
            "--profile PROFILE; --force-stage STAGE there runs a stage anew",
        )
