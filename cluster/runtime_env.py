"""What travels with a job to a cluster: our code, the user's files, and named variables.

All of it can be read by whoever reaches the cluster's dashboard, so no secret is among it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import driver
from cluster.fingerprint import PACKAGES, folders
from jobs.errors import UserError
from jobs.masking import SECRETS_VARIABLE

_IN_THE_WAY = tuple(name for package in PACKAGES for name in (package, f"{package}.py"))


def attached_env() -> dict[str, Any]:
    """The runtime environment of a driver that connects to a cluster from outside."""
    variables = {name: os.environ[name] for name in (SECRETS_VARIABLE,) if name in os.environ}
    return {"py_modules": _modules(), "env_vars": {**variables, "PYTHONSAFEPATH": "1"}}


def stays_here(working_dir: Path, storage: Path | None) -> list[str]:
    """What of a working directory does not travel, as patterns of .gitignore."""
    patterns = [".git", ".venv", "__pycache__"]
    if is_our_checkout(working_dir):
        patterns += [f"/{name}" for name in (*PACKAGES, "tests", "docs")]
    if storage and storage.is_relative_to(working_dir) and storage != working_dir:
        patterns.append(f"/{storage.relative_to(working_dir).as_posix()}")
    return patterns


def submitted_env(
    working_dir: Path | None,
    excludes: Sequence[str],
    extra_module: Path | None,
    stop_grace_s: float,
    variables: Mapping[str, str],
) -> dict[str, Any]:
    """The runtime environment of a submitted job.

    Args:
        working_dir: the folder whose files travel, and which is the job's current one.
        excludes: what of it stays here, as `stays_here` says.
        extra_module: a folder that travels beside our packages.
        stop_grace_s: seconds from the request to stop until the job is killed.
        variables: environment variables, none of which is a secret.

    Raises:
        UserError: if a file of the working directory hides a package of ours.
    """
    environment: dict[str, Any] = {
        "py_modules": [*_modules(), *([str(extra_module)] if extra_module else [])],
        "env_vars": {
            **variables,
            **driver.TRAVELLING,
            "PYTHONSAFEPATH": "1",
            # Ray kills a job after 3 s otherwise, which is too soon for any checkpoint.
            "RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(stop_grace_s)),
        },
    }
    if working_dir:
        refuse_names_of_ours(working_dir)
        environment |= {"working_dir": str(working_dir), "excludes": list(excludes)}
    return environment


def refuse_names_of_ours(folder: Path) -> None:
    """Refuses a folder of the user's that holds a module with the name of a package of ours.

    Raises:
        UserError: it names the file.
    """
    if is_our_checkout(folder):
        return
    for name in _IN_THE_WAY:
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} has the name of a package of raysmith's, and one of the two "
                "would hide the other on the cluster",
                "give it another name, or name another folder with --working-dir",
            )


def is_our_checkout(folder: Path) -> bool:
    """Whether a folder holds the very packages that this process runs."""
    return any(package.parent == folder.resolve() for package in folders())


def _modules() -> Sequence[str]:
    return [str(folder) for folder in folders()]
