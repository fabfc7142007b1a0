"""A job file that was read and found valid, with the place of everything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import Problem
from jobs.load.literal_secrets import masked
from jobs.load.tree import KeyPath, Position, Positions, Value, problem_at, split_dotted
from jobs.spec import JobSpec


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec, and where everything in it came from."""

    spec: JobSpec
    path: Path
    """The file it was read from, as the user named it."""
    text: str
    """The file's content."""
    tree: Value
    """What was written, with overrides and environment applied, and without defaults."""
    positions: Positions
    """Where each value was written."""
    environment: Mapping[str, str]
    """The environment variables that the spec reads, and what they held."""
    env_paths: Mapping[KeyPath, str]
    """The values that came from the environment, as they were written."""
    base_folders: tuple[str, ...]
    """Where relative paths are looked up: the spec's folder, then the current one."""

    def position(self, path: str | KeyPath) -> Position | None:
        """Where a value was written; None where it was not."""
        return self.positions.values.get(self.key_path(path))

    def key_path(self, path: str | KeyPath) -> KeyPath:
        """A path in its long form."""
        return split_dotted(path, self.tree) if isinstance(path, str) else path

    def problem(
        self,
        path: str | KeyPath,
        message: str,
        remedy: str | None = None,
        *,
        at_key: bool = False,
    ) -> Problem:
        """A problem with the value at a path, at its place in the file.

        Args:
            path: such as `stages.sft.dataset.train[0]`; the nearest section around it that was
                written gives the place.
            message: what is wrong.
            remedy: what to do about it.
            at_key: whether it is wrong to have the key at all.
        """
        where = self.key_path(path)
        place = self.positions.of_key(where) if at_key else self.positions.of(where)
        return masked(problem_at(place, where, message, remedy))
