"""From a source in the spec to files on disk, and to the rows that are taken from each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

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
        found = _expand(Path(base, path).expanduser())
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


HELD_OUT = -1
"""Marks a row for validation in the array that `select` returns."""


def held_out_rows(sizes: Sequence[int], held_out: float) -> list[int]:
    """How many rows each source gives to validation, of `sizes` rows.

    A share is taken of each source, at least one row; a number is spread over the sources by size.
    """
    if held_out < 1:
        return [max(int(size * held_out + 1e-9), 1) if held_out else 0 for size in sizes]
    total, left, counts = sum(sizes), int(held_out), []
    for size in sizes:
        counts.append(round(left * size / max(total, 1)))
        total, left = total - size, left - counts[-1]
    return counts


def select(rows: int, wanted: int, validation: int, seed: Sequence[int] | None) -> np.ndarray:
    """How often each row is trained on; `HELD_OUT` for those in validation. (rows,) int32.

    `validation` rows are held out and the others repeated or left out so that `wanted` rows are
    used in all: where more are asked for than there are, in whole copies and a random rest. No copy
    of a held-out row is trained on. Rows are chosen at random, or in order where `seed` is None.
    """
    order = np.arange(rows) if seed is None else np.random.default_rng(seed).permutation(rows)
    repeats = np.zeros(rows, dtype=np.int32)
    repeats[order[:validation]] = HELD_OUT
    pool = order[validation:]
    if len(pool):
        copies, rest = divmod(max(wanted - validation, 0), len(pool))
        repeats[pool] = copies
        repeats[pool[:rest]] += 1
    return repeats
