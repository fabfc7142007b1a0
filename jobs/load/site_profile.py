"""From a profile's name or file to a `ProfileSpec`, with everything that is wrong at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from jobs.errors import SpecError, UserError
from jobs.load.interpolate import interpolate
from jobs.load.literal_secrets import hide_secrets, masked
from jobs.load.loader import read_text
from jobs.load.tree import Position, Positions, split_dotted
from jobs.load.wording import problems_of
from jobs.load.yaml_tree import parse
from jobs.spec.site_profile import ProfileSpec

VARIABLE = "RAYSMITH_PROFILE"
"""The environment variable that names the profile where no option does."""

_SITE_FOLDER = Path("/etc/raysmith/profiles")


@dataclass(frozen=True)
class LoadedProfile:
    """A valid profile, and where everything in it was written."""

    spec: ProfileSpec
    path: Path
    text: str
    positions: Positions
    environment: Mapping[str, str]
    """The environment variables that the profile reads, and what they held."""

    def position(self, path: str) -> Position | None:
        """Where a value, such as `policy.max_workers`, was written; None where it was not."""
        return self.positions.values.get(split_dotted(path, self.spec.model_dump(mode="json")))

    def place(self, path: str) -> str:
        """Where a value was written, as `file:line`."""
        found = self.positions.of(split_dotted(path, self.spec.model_dump(mode="json")))
        return f"{found.file}:{found.line}"


def load_profile(
    name: str, environ: Mapping[str, str] | None = None, named: Path | None = None
) -> LoadedProfile:
    """Reads and checks a profile.

    Args:
        name: a file, or the name of one in the user's or the site's folder of profiles.
        environ: what `${env:X}` reads; the process's environment when absent.
        named: what to call the file, where it is a copy of one that the user named.

    Raises:
        UserError: if there is no such profile, or it can't be read.
        SpecError: with everything that is wrong with the content.
    """
    environ = os.environ if environ is None else environ
    path = _find(name, environ)
    text = read_text(path)
    path = named or path
    document = parse(text, str(path), ProfileSpec)
    filled = interpolate(document, environ)
    secret_paths, secret_problems = hide_secrets(document, text, filled.broken)
    problems = document.problems + filled.problems + secret_problems
    try:
        spec = ProfileSpec.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        silent = filled.broken | secret_paths | document.refused
        problems += problems_of(error.errors(include_url=False), document, silent)
    if problems:
        raise SpecError([masked(problem) for problem in dict.fromkeys(problems)])
    return LoadedProfile(spec, path, text, document.positions, filled.environment)


def _find(name: str, environ: Mapping[str, str]) -> Path:
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folders = (config / "raysmith" / "profiles", _SITE_FOLDER)
    places = [folder / f"{name}.yaml" for folder in folders]
    for place in places:
        if place.is_file():
            return place
    known = sorted(file.stem for folder in folders for file in folder.glob("*.yaml"))
    raise UserError(
        f"there is no profile {name!r}: neither {places[0]} nor {places[1]}",
        f"choose one of {', '.join(known)}" if known else "name a file: --profile ./profile.yaml",
    )
