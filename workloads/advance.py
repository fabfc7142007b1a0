"""What shows that a stage gets on: what it has committed, and when it last wrote anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from storage.layout import StageLayout
from storage.manifest import MARKER_FILE
from workloads.context import StageContext

_COMMITS = (
    f"checkpoint-*/{MARKER_FILE}",
    f"trials/*/checkpoint-*/{MARKER_FILE}",
    f"trials/*/artifact/{MARKER_FILE}",
    "models/*/answers/*",
)
"""What a stage need not do again, in its folder."""

_LOGS = ("driver.log", "worker_")
"""Beginnings of names of files that also grow where nothing gets on."""
_SWEEP = ("attempt_",)
"""A sweep says how it stands again and again; its trials get on, or do not."""


def committed(layout: StageLayout) -> frozenset[str]:
    """What a stage has committed so far, by name."""
    folder = layout.folder
    return frozenset(
        str(path.relative_to(folder)) for pattern in _COMMITS for path in folder.glob(pattern)
    )


def last_sign(context: StageContext) -> float:
    """When the stage last wrote anything but logs, in seconds since the epoch; 0 before that.

    Its progress, checkpoints that are being written, tokenized rows, answers and trials all count.
    """
    over = _SWEEP if context.layout.trials_jsonl.exists() else ()
    times = (*_times(context.layout.folder, over), *_times(context.artifact))
    return max(times, default=0.0)


def _times(folder: Path, over: tuple[str, ...] = ()) -> Iterator[float]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(_LOGS + over):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _times(Path(entry.path))
            else:
                yield entry.stat(follow_symlinks=False).st_mtime
        except FileNotFoundError:
            continue  # Replaced or removed meanwhile, which is progress that is seen next time.
