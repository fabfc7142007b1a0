"""Which tasks of lm-eval a stage asks for. Reads a few lines, and imports none of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError

_NAME = re.compile(r"^task:\s*[\"']?(?P<name>[^\s\"'#]+)", re.MULTILINE)


@dataclass(frozen=True)
class Tasks:
    """Which tasks, and where those of the user's own lie."""

    names: tuple[str, ...]
    folders: tuple[str, ...]


def find_tasks(tasks: Sequence[str], base_folders: Sequence[str]) -> Tasks:
    """The names of tasks, of which some are given as YAML files.

    Raises:
        UserError: if a file is not there, or names no task.
    """
    names, folders = [], []
    for task in tasks:
        if not task.endswith((".yaml", ".yml")):
            names.append(task)
            continue
        paths = (Path(base, task) for base in base_folders)
        file = next((path.resolve() for path in paths if path.is_file()), None)
        if not file:
            raise UserError(f"no lm-eval task at {task!r}", "give the path of its YAML file")
        if not (match := _NAME.search(file.read_text(encoding="utf-8", errors="replace"))):
            raise UserError(f"{str(file)!r} names no task", "add a line `task: my_task`")
        names.append(match["name"])
        folders.append(str(file.parent))
    return Tasks(tuple(names), tuple(dict.fromkeys(folders)))
