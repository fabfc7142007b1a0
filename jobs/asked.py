"""How a run was asked for, kept in its folder, so that it can be asked for again from anywhere."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import chdir
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


def asked_for(
    loaded: LoadedSpec, overrides: tuple[str, ...], profile: LoadedProfile | None, *, no_serve: bool
) -> Asked:
    """How this process asks for a run."""
    return Asked(
        spec=str(loaded.path.absolute()),
        folder=str(Path.cwd()),
        overrides=overrides,
        environment={**loaded.environment, **(profile.environment if profile else {})},
        profile=str(profile.path.absolute()) if profile else None,
        profile_text=profile.text if profile else None,
        no_serve=no_serve,
    )


def again(run: RunLayout) -> tuple[LoadedSpec, Plan, Asked]:
    """The job of an earlier run, from what its folder holds, in the same storage.

    Raises:
        UserError: the run is of a raysmith that did not keep how it was asked for.
        SpecError: the spec is not valid here and now.
    """
    asked = _read(run)
    environ = {**os.environ, **asked.environment}
    folder = asked.folder if Path(asked.folder).is_dir() else "."
    with chdir(folder):
        loaded = load(run.spec, asked.overrides, environ, named=Path(asked.spec))
    profile = _profile(asked, environ)
    plan = resolve_within(loaded, str(place_of(run.root) or run.root), profile)
    return loaded, without_services(plan) if asked.no_serve else plan, asked


def _read(run: RunLayout) -> Asked:
    try:
        return Asked.model_validate(json.loads(run.lock.read_bytes())[KEY])
    except (FileNotFoundError, KeyError, ValueError, ValidationError) as error:
        raise UserError(
            f"{run.lock} does not tell how the run was asked for",
            "start it from its spec: raysmith run SPEC",
        ) from error


def _profile(asked: Asked, environ: dict[str, str]) -> LoadedProfile | None:
    if asked.profile is None or asked.profile_text is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(asked.profile_text)
        file.flush()
        return load_profile(file.name, environ, named=Path(asked.profile))
