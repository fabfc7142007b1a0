"""A file that one process at a time may write, wherever storage is: the lease of what it describes.

Who writes it names the version that it knows. When another process has written meanwhile, the write
is refused and changes nothing: so a process that was suspended or cut off, and comes back after
another has taken its place, learns so before it does harm.
"""

from pathlib import Path

from jobs.errors import RaysmithError
from storage.backend import MissingKey
from storage.durable import write_atomic
from storage.local import LocalBackend
from storage.working_copy import Place, place_of


class FencedOut(RaysmithError):
    """Another process has taken over what this one was writing; it must stop."""


class FencedFile:
    """One such file, and its version as this process knows it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = place_of(path)
        self._place = stored or Place(LocalBackend(path.parent), str(path.parent), path.name)
        self._has_copy = stored is not None
        self._tag: str | None = None

    def read(self) -> bytes:
        """The content, whose version is known from here on. Raises MissingKey."""
        found = self._place.store.read_tagged(self._place.key)
        self._tag = found.tag
        self._copy(found.data)
        return found.data

    def create(self, data: bytes) -> bool:
        """Writes the first version; False where there is one already."""
        if not self._place.store.create(self._place.key, data):
            return False
        self.read()
        return True

    def write(self, data: bytes) -> None:
        """Replaces the version that this process knows.

        Raises:
            FencedOut: it is no longer the newest.
        """
        assert self._tag is not None, "it is read or created first"
        tag = self._place.store.replace(self._place.key, data, self._tag)
        if tag is None:
            raise self._fenced_out()
        self._tag = tag
        self._copy(data)

    def is_known(self) -> bool:
        """Whether the newest version is the one that this process knows."""
        try:
            return self._place.store.read_tagged(self._place.key).tag == self._tag
        except MissingKey:
            return False

    def check(self) -> None:
        """Raises FencedOut where `write` would now."""
        if not self.is_known():
            raise self._fenced_out()

    def _fenced_out(self) -> FencedOut:
        return FencedOut(
            f"another process has written {self._place} and goes on from there",
            "let that one go on; see it with `raysmith status`",
        )

    def _copy(self, data: bytes) -> None:
        if self._has_copy:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, data)
