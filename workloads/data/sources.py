"""From a source in the spec to files on disk, and to the rows that are taken from each."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from jobs.errors import UserError
from jobs.spec.dataset import RowsSpec
from workloads.data.readers import READERS, reader_for
from workloads.data.rows import Chunk

BUNDLED = {"arithmetic": "arithmetic.jsonl", "self-cognition": "self_cognition.jsonl"}
"""Datasets that come with the package, by name."""

Rows = TypeVar("Rows", bound=RowsSpec)

_KINDS = ", ".join(READERS)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w-]+")


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
        place = Path(base, os.path.expanduser(path))  # noqa: PTH111
        try:
            found = _expand(place)
        except OSError as error:
            reason = f"dataset {path!r} can't be read: {error.strerror}"
            raise UserError(reason, "check the path and its permissions") from error
        if found:
            return found
    raise _not_found(path, base_folders)


def _expand(path: Path) -> list[str]:
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise UserError(f"dataset {str(path)!r} is of no known type", f"known are {_KINDS}")
        return [str(path.resolve())]
    if path.is_dir():
        return _of_known_type(path.iterdir())
    if any(mark in path.name for mark in "*?["):
        return _of_known_type(path.parent.glob(path.name))
    return []


def _of_known_type(paths: Iterable[Path]) -> list[str]:
    # What begins with an underscore is the commit protocol's, or said of the rows beside them.
    return sorted(
        str(p.resolve())
        for p in paths
        if p.suffix.lower() in READERS and not p.name.startswith("_") and p.is_file()
    )


def _not_found(path: str, base_folders: Sequence[str]) -> UserError:
    if any(Path(base, path).is_dir() for base in base_folders):
        return UserError(
            f"the folder {path!r} holds no dataset",
            f"give a folder with files of a known type ({_KINDS}) right in it",
        )
    whole, mark, count = path.rpartition("#")
    if mark and any(Path(base, whole).exists() for base in base_folders):
        if count.isdecimal():
            return UserError(
                f"no dataset at {path!r}: the long form takes no #{count}",
                f"write {{path: {whole}, sample: {count}}}",
            )
        return UserError(
            f"{count!r} is no number of rows to take of {whole!r}", f"write {whole}#500"
        )
    return UserError(f"no dataset at {path!r}", _nearest(path, base_folders))


def _nearest(path: str, base_folders: Sequence[str]) -> str:
    looked = ", ".join(str(Path(base, path)) for base in dict.fromkeys(base_folders))
    name = Path(path).name
    folders = [Path(base, path).parent for base in base_folders]
    names = {p.name for folder in folders if folder.is_dir() for p in folder.iterdir()} - {name}
    hint = "datasets of the hub must be downloaded first; " if _HUB_ID.fullmatch(path) else ""
    if close := difflib.get_close_matches(name, [*sorted(names), *BUNDLED], n=1):
        hint = f"did you mean {close[0]!r}? "
    elif any(mark in str(Path(path).parent) for mark in "*?["):
        hint = "a pattern may stand only after the last slash; "
    bundled = ", ".join(BUNDLED)
    return f"{hint}looked at {looked}; bundled datasets: {bundled}"


def found_template(dataset: Rows, base_folders: Sequence[str]) -> Rows:
    """The dataset with the path of its chat template, if it has one, made absolute."""
    if not dataset.chat_template:
        return dataset
    paths = [Path(base, dataset.chat_template) for base in base_folders]
    found = next((path for path in paths if path.is_file()), paths[0])
    return dataset.model_copy(update={"chat_template": str(found.resolve())})


def chunk_files(paths: Sequence[str]) -> list[Chunk]:
    """All chunks of the files, in order."""
    return [chunk for path in paths for chunk in reader_for(path).chunks(path)]
