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
from jobs.asked import Asked, profile_of
from jobs.errors import ClusterUnfit, RaysmithError, SpecError, UserError
from jobs.load.loaded import LoadedSpec
from jobs.load.loader import load
from jobs.load.tree import leaves
from jobs.plan.policy import resolve_within
from jobs.plan.resolve import Plan

FOLDER = "raysmith_submission"
"""What the folder is called, there and here."""

_CONTENT, _SPEC = "submission.json", "spec.yaml"


class Choice(BaseModel):
    """Which run a job shall be, and what it takes from others; as in `jobs.controller.Job`."""

    model_config = ConfigDict(frozen=True)

    forced: tuple[str, ...] = ()
    new: bool = False
    run_id: str | None = None


class Submission(BaseModel):
    """A job as it was submitted, but for the text of its spec."""

    model_config = ConfigDict(frozen=True)

    spec: str
    """The spec's path in the working directory; its name alone where it is not in there."""
    asked: Asked
    """How the submitter asked for it."""
    fingerprint: str
    """Of the submitter's code."""
    command: str
    """What was typed to submit it."""
    git_revision: str | None
    choice: Choice


def pack(folder: Path, loaded: LoadedSpec, asked: Asked, choice: Choice) -> Path:
    """Writes what travels into a new folder in `folder`, and returns that."""
    place, sent = loaded.path.resolve(), asked.submitted
    working_dir = Path(sent.working_dir) if sent and sent.working_dir else None
    inside = working_dir and place.is_relative_to(working_dir)
    submission = Submission(
        spec=str(place.relative_to(working_dir)) if working_dir and inside else place.name,
        asked=asked,
        fingerprint=fingerprint(),
        command=shlex.join(["raysmith", *sys.argv[1:]]),
        git_revision=git_revision(loaded.path.parent),
        choice=choice,
    )
    packed = folder / FOLDER
    packed.mkdir()
    (packed / _SPEC).write_text(loaded.text, encoding="utf-8")
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
    asked = submission.asked
    assert asked.submitted is not None
    _check_code(submission.fingerprint, ship_code=asked.submitted.ship_code)
    environ = {**os.environ, **asked.environment}
    loaded = load(folder / _SPEC, asked.overrides, environ, named=Path(submission.spec))
    plan = resolve_within(loaded, asked.submitted.storage, profile_of(asked, environ))
    return submission, loaded, plan


def _check_code(wanted: str, *, ship_code: bool) -> None:
    own = fingerprint()
    installed = installed_fingerprint()
    if own != wanted:
        raise ClusterUnfit(
            f"the code that runs here is {own[:12]}, and the submitter's is {wanted[:12]}",
            "submit with the raysmith that the cluster has",
        )
    if installed and installed != wanted and not ship_code:
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


def digest(plan: Plan, working_dir: Path | None, excludes: Sequence[str], choice: Choice) -> str:
    """Stands for what a job does: its plan, our code, the files that travel, and its choice."""
    files = ""
    if working_dir:
        from ray._private.runtime_env.packaging import get_uri_for_directory

        honour = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") != "1"
        files = get_uri_for_directory(str(working_dir), honour, excludes=list(excludes))
    text = "\0".join((plan.to_json(), fingerprint(), files, choice.model_dump_json()))
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
