"""Which runs and artifacts there are below a storage root, told by one listing and no reading.

    <root>/_index/runs/<run id>~<name>~<state>~<digest>~<time>
    <root>/_index/artifacts/<stage key>/<run id>~<name>~<stage>

The objects are empty: all that they tell is in their names. An entry of a run is written before
what it tells of, and the one that it replaces removed after; a driver that is killed in between
leaves one too many, and the newest counts. So the index may name what is not there, or no longer:
what it names is looked at before it is used. It may be removed, and is made anew from the runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.working_copy import store_of

FOLDER: Final = "_index"
_RUNS: Final = f"{FOLDER}/runs/"
_ARTIFACTS: Final = f"{FOLDER}/artifacts/"
_SEPARATOR: Final = "~"
_DIGEST_LENGTH: Final = 16


@dataclass(frozen=True)
class RunEntry:
    """A run as the index knows it."""

    run_id: str
    name: str
    state: str
    digest: str
    """The beginning of its digest."""
    at: str
    """When it came into this state: ISO 8601 in UTC without separators, which sorts by time."""

    @property
    def full_name(self) -> str:
        """What tells the run from all others: `name/run_id`."""
        return f"{self.name}/{self.run_id}"

    @classmethod
    def of(cls, run_id: str, name: str, state: str, digest: str, at: str) -> RunEntry:
        """The entry of a run; `at` is a time as records write it."""
        compact = at.replace("-", "").replace(":", "")
        return cls(run_id, name, state, digest[:_DIGEST_LENGTH], compact)

    def has(self, digest: str) -> bool:
        """Whether a run of this digest may be meant."""
        return self.digest == digest[:_DIGEST_LENGTH]


@dataclass(frozen=True)
class ArtifactEntry:
    """An artifact as the index knows it."""

    run_id: str
    name: str
    stage: str


class Index:
    """The index of one storage root."""

    def __init__(self, root: Path) -> None:
        self._store = store_of(root)

    def runs(self) -> list[RunEntry]:
        """All runs, those whose state changed last first."""
        newest: dict[tuple[str, str], RunEntry] = {}
        for parts in self._entries(_RUNS, 5):
            entry = RunEntry(*parts)
            known = newest.get((entry.name, entry.run_id))
            if known is None or known.at < entry.at:
                newest[entry.name, entry.run_id] = entry
        return sorted(newest.values(), key=lambda entry: (entry.at, entry.run_id), reverse=True)

    def artifacts(self, key: str) -> list[ArtifactEntry]:
        """Where a stage with this key left its artifact, the newest runs first."""
        found = [ArtifactEntry(*parts) for parts in self._entries(f"{_ARTIFACTS}{key}/", 3)]
        return sorted(found, key=lambda entry: entry.run_id, reverse=True)

    def put(self, entry: RunEntry) -> None:
        """Writes a run's entry."""
        self._store.write_bytes(_run_key(entry), b"")

    def remove(self, entry: RunEntry) -> None:
        """Removes a run's entry."""
        self._store.delete(_run_key(entry))

    def put_artifact(self, key: str, entry: ArtifactEntry) -> None:
        """Writes where a stage with this key left its artifact."""
        self._store.write_bytes(_artifact_key(key, entry), b"")

    def forget_run(self, name: str, run_id: str) -> None:
        """Removes all entries of a run; slow, since those that a kill left are looked for."""
        for prefix in (_RUNS, _ARTIFACTS):
            for entry in list(self._store.list(prefix)):
                if entry.key.rpartition("/")[2].startswith(_joined(run_id, name, "")):
                    self._store.delete(entry.key)

    def is_empty(self) -> bool:
        """Whether there is no entry of any run."""
        return next(iter(self._store.list(_RUNS)), None) is None

    def _entries(self, prefix: str, count: int) -> Iterable[list[str]]:
        for entry in self._store.list(prefix):
            parts = entry.key.removeprefix(prefix).split(_SEPARATOR)
            if len(parts) == count:
                yield parts


def _joined(*parts: str) -> str:
    return _SEPARATOR.join(parts)


def _run_key(entry: RunEntry) -> str:
    return _RUNS + _joined(entry.run_id, entry.name, entry.state, entry.digest, entry.at)


def _artifact_key(key: str, entry: ArtifactEntry) -> str:
    return f"{_ARTIFACTS}{key}/{_joined(entry.run_id, entry.name, entry.stage)}"
