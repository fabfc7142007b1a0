"""Tells whether two machines have the same code of ours."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from jobs.errors import ClusterError

PACKAGES = ("jobs", "cluster", "workloads", "storage")
"""The packages that are ours."""

EXPECTED = "RAYSMITH_FINGERPRINT"
"""The environment variable that says which code a job needs."""

_OURS = "controller.py"
"""A file of `jobs` by which it is told from another package of that name."""

SHIPPED = "runtime_resources"
"""The folder in which Ray keeps what travels with a job."""

_COUNTED = (".py", ".json", ".jsonl", ".yaml", ".html", ".txt")


def folders(paths: Sequence[str] | None = None) -> tuple[Path, ...]:
    """Where our packages lie among these folders, or as this process imports them.

    Nothing where they do not.
    """
    found = []
    for name in PACKAGES:
        spec = PathFinder.find_spec(name, paths)
        if spec is None or not spec.origin:
            return ()
        found.append(Path(spec.origin).parent)
    return tuple(found) if (found[0] / _OURS).is_file() else ()


@cache
def fingerprint(packages: tuple[Path, ...] | None = None) -> str:
    """Digest of our packages' code, in hex: equal for equal code.

    Args:
        packages: the folders of the packages; those of this process when absent.
    """
    digest = hashlib.sha256()
    for folder in folders() if packages is None else packages:
        for file in sorted(_files(folder), key=lambda file: file.relative_to(folder).as_posix()):
            name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
            digest.update(f"{name}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def check_expected(environ: Mapping[str, str]) -> None:
    """Holds this code against the one that a job was rendered with, `EXPECTED`.

    Raises:
        ClusterError: if they differ.
    """
    expected = environ.get(EXPECTED)
    if expected and expected != fingerprint():
        raise ClusterError(
            f"the image has another raysmith ({fingerprint()}) than the one that rendered this job "
            f"({expected})",
            "render with the raysmith of the image, or build the image of the code that renders",
        )


def installed_fingerprint() -> str | None:
    """As `fingerprint`, of the code that is installed on this machine beside what was shipped.

    None where none is installed.
    """
    here = str(Path.cwd())
    paths = [path for path in sys.path if path and path != here and SHIPPED not in path]
    installed = folders(paths)
    return fingerprint(installed) if installed else None


def _files(folder: Path) -> Iterable[Path]:
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name != "__pycache__"]
        yield from (Path(place) / name for name in names if name.endswith(_COUNTED))
