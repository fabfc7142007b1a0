"""From a source in the spec to files on disk, and to the rows that are taken from each."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from jobs.errors import UserError
from workloads.data.readers import READERS, reader_for
from workloads.data.rows import Chunk

BUNDLED = {"self-cognition": "self_cognition.jsonl"}
"""Datasets that come with the package, by name."""


def find_files(path: str, base_folders: Sequence[str]) -> list[str]:
    """The files that a source's path names: a bundled dataset, a file, a folder or a pattern.

    Raises:
        UserError: if there are none, or one is of no known type.
    """
    if path in BUNDLED:
        return [str(files("workloads.data") / BUNDLED[path])]
    if "://" in path:
        raise UserError(
            f"dataset {path!r} is not on a local or mounted disk", "download it and give its path"
        )
    for base in base_folders:
        # pathlib's way raises an error where there is no home folder.
        found = _expand(Path(base, os.path.expanduser(path)))  # noqa: PTH111
        if found:
            return found
    raise UserError(f"no dataset at {path!r}", _nearest(path, base_folders))


def _expand(path: Path) -> list[str]:
    known = tuple(READERS)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            kinds = ", ".join(known)
            raise UserError(f"dataset {str(path)!r} is of no known type", f"known are {kinds}")
        return [str(path.resolve())]
    if path.is_dir():
        candidates: Iterable[Path] = path.iterdir()
    elif any(mark in path.name for mark in "*?["):
        candidates = path.parent.glob(path.name)
    else:
        return []
    return sorted(str(p.resolve()) for p in candidates if p.suffix.lower() in known and p.is_file())


def _nearest(path: str, base_folders: Sequence[str]) -> str:
    looked = ", ".join(str(Path(base, path)) for base in dict.fromkeys(base_folders))
    folders = [Path(base, path).parent for base in base_folders]
    names = [p.name for folder in folders if folder.is_dir() for p in folder.iterdir()]
    close = difflib.get_close_matches(Path(path).name, [*names, *BUNDLED], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    bundled = ", ".join(BUNDLED)
    return f"{hint}looked at {looked}; bundled datasets: {bundled}"


def chunk_files(paths: Sequence[str]) -> list[Chunk]:
    """All chunks of the files, in order."""
    return [chunk for path in paths for chunk in reader_for(path).chunks(path)]
