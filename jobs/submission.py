"""What is sent to a cluster so that a driver there runs the same job: written here, read there.

It travels as a folder beside our packages. Whoever reaches the cluster's dashboard can read it, so
secrets are in it by name only.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cluster.fingerprint import fingerprint, installed_fingerprint
from jobs.errors import ClusterUnfit, RaysmithError, SpecError, UserError
from jobs.load.loaded import LoadedSpec
from jobs.load.loader import load
from jobs.load.site_profile import LoadedProfile, load_profile
from jobs.load.tree import leaves
from jobs.plan.policy import resolve_within
from jobs.plan.resolve import Plan

FOLDER = "raysmith_submission"
"""What the folder is called, there and here."""

_CONTENT, _SPEC, _PROFILE = "submission.json", "spec.yaml", "profile.yaml"


class Submission(BaseModel):
    """A job as it was submitted, but for the text of its spec and profile."""

    model_config = ConfigDict(frozen=True)

    spec: str
    """The spec's path in the working directory; its name alone where it is not in there."""
    overrides: tuple[str, ...]
    environment: dict[str, str]
    """What the spec and the profile read from the submitter's environment."""
    storage: str
    profile: str | None
    """The profile's path, as the submitter named it."""
    fingerprint: str
    """Of the submitter's code."""
    ship_code: bool
    """Whether to run the submitter's code also where the cluster has another version."""
    command: str
    """What was typed to submit it."""
    git_revision: str | None


def pack(
    folder: Path,
    loaded: LoadedSpec,
    plan: Plan,
    profile: LoadedProfile | None,
    overrides: tuple[str, ...],
    working_dir: Path | None,
    *,
    ship_code: bool,
) -> Path:
    """Writes what travels into a new folder in `folder`, and returns that."""
    place = loaded.path.resolve()
    inside = working_dir and place.is_relative_to(working_dir)
    submission = Submission(
        spec=str(place.relative_to(working_dir)) if working_dir and inside else place.name,
        overrides=overrides,
        environment={**loaded.environment, **(profile.environment if profile else {})},
        storage=plan.storage,
        profile=str(profile.path) if profile else None,
        fingerprint=fingerprint(),
        ship_code=ship_code,
        command=shlex.join(["raysmith", *sys.argv[1:]]),
        git_revision=git_revision(loaded.path.parent),
    )
    packed = folder / FOLDER
    packed.mkdir()
    (packed / _SPEC).write_text(loaded.text, encoding="utf-8")
    if profile:
        (packed / _PROFILE).write_text(profile.text, encoding="utf-8")
    (packed / _CONTENT).write_text(submission.model_dump_json(indent=2), encoding="utf-8")
    return packed


def received() -> tuple[Submission, LoadedSpec, Plan]:
    """The job that was sent to this process.

    Raises:
        RaysmithError: if none was.
        ClusterUnfit: if this machine has code of ours that is not the submitter's.
        SpecError: if the spec is not valid here.
    """
    found = PathFinder.find_spec(FOLDER)
    if found is None or not found.submodule_search_locations:
        raise RaysmithError("no job was sent to this process", "submit it: `raysmith submit SPEC`")
    folder = Path(next(iter(found.submodule_search_locations)))
    submission = Submission.model_validate_json((folder / _CONTENT).read_bytes())
    _check_code(submission)
    environ = {**os.environ, **submission.environment}
    named = Path(submission.spec)
    loaded = load(folder / _SPEC, submission.overrides, environ, named=named)
    profile = None
    if submission.profile:
        profile = load_profile(str(folder / _PROFILE), environ, named=Path(submission.profile))
    return submission, loaded, resolve_within(loaded, submission.storage, profile)


def _check_code(submission: Submission) -> None:
    wanted, own = submission.fingerprint, fingerprint()
    installed = installed_fingerprint()
    if own != wanted:
        raise ClusterUnfit(
            f"the code that runs here is {own[:12]}, and the submitter's is {wanted[:12]}",
            "submit with the raysmith that the cluster has",
        )
    if installed and installed != wanted and not submission.ship_code:
        raise ClusterUnfit(
            f"the cluster's raysmith is {installed[:12]}, and the submitter's is {wanted[:12]}",
            "install one version on both, or submit with --ship-code to run the submitter's code",
        )


def check_files(loaded: LoadedSpec, working_dir: Path | None) -> None:
    """Refuses relative paths in the spec that mean a file here and would mean none there.

    Raises:
        SpecError: with each of them at its place.
    """
    problems = []
    for path, value in leaves(loaded.tree):
        for file in _meant(value, loaded.base_folders):
            if reason := _stays_here(file, working_dir):
                problems.append(loaded.problem(path, f"{file} {reason}", _TRAVEL))
    if problems:
        raise SpecError(problems)


_TRAVEL = (
    "put it into the working directory (--working-dir), or into storage that all nodes share, and "
    "name it by its whole path"
)


def _meant(value: object, folders: tuple[str, ...]) -> list[Path]:
    """The file or folder of this machine that a value of the spec means, if any."""
    if not isinstance(value, str) or not value or "${" in value or "\n" in value:
        return []
    name = value.partition("#")[0]
    if not name or Path(name).is_absolute() or ("/" not in name and "." not in name):
        return []
    places = (Path(folder, name) for folder in folders)
    return [place.resolve() for place in places if _exists(place)][:1]


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):
        return False


def _stays_here(file: Path, working_dir: Path | None) -> str | None:
    if working_dir is None or not file.is_relative_to(working_dir):
        return "is not in the working directory, which alone travels to the cluster"
    if os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") != "1" and _is_git_ignored(file):
        return "is ignored by git, and what git ignores does not travel to the cluster"
    return None


def _is_git_ignored(file: Path) -> bool:
    try:
        command = ["git", "check-ignore", "--quiet", str(file)]
        done = subprocess.run(command, cwd=file.parent, capture_output=True, check=False)
        return done.returncode == 0
    except OSError:
        return False


def git_revision(folder: Path) -> str | None:
    """The commit that a folder is at; None where it is in no repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def digest(plan: Plan, working_dir: Path | None, excludes: Sequence[str]) -> str:
    """Stands for what a job does: its plan, our code, and the files that travel."""
    from ray._private.runtime_env.packaging import get_uri_for_directory

    honour = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") != "1"
    files = ""
    if working_dir:
        files = get_uri_for_directory(str(working_dir), honour, excludes=list(excludes))
    text = "\0".join((plan.to_json(), fingerprint(), files))
    return hashlib.sha256(text.encode()).hexdigest()


def checked_folder(text: str | None) -> Path:
    """The working directory that an option means; the current one where it is not given.

    Raises:
        UserError: if it is no folder.
    """
    folder = Path(text or ".").resolve()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "name one with --working-dir")
    return folder
