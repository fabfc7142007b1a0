"""The interface that every storage backend satisfies, and how one is opened.

Add a backend: one file with a class that takes the path of its URI and has these methods, one
line in `storage.BACKENDS`, one line in the contract test that runs over all backends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from jobs.errors import RaysmithError, UserError
from storage import BACKENDS
from storage.uri import StorageUri


class MissingKey(RaysmithError):
    """A key was read that nobody has written."""


@dataclass(frozen=True)
class Entry:
    """One stored object."""

    key: str
    size_bytes: int


@dataclass(frozen=True)
class Digested:
    """What a file that was stored holds."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Tagged:
    """An object's content, and what tells this version of it from every other."""

    data: bytes
    tag: str


class Backend(Protocol):
    """A flat map from keys to bytes, no richer than an object store.

    A key is a relative posix path (`a/b.json`); a prefix is empty or whole segments that end in
    `/`. Anything else is a ValueError. No key may also be a folder of another key.

    Not supported: rename, append, partial writes, empty folders, locks, links, file modes.
    Publish several objects together with a marker written last, never by a rename.
    """

    def write_bytes(self, key: str, data: bytes) -> None:
        """Write the object whole, over an older one; readers see the old bytes or the new."""
        ...

    def read_bytes(self, key: str) -> bytes:
        """Read the object. Raises MissingKey."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of the object, fewer where it ends. Raises MissingKey."""
        ...

    def read_tagged(self, key: str) -> Tagged:
        """The object and its version. Raises MissingKey."""
        ...

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """Write over the version of `tag`; the new version, or None when it is not the newest."""
        ...

    def upload(self, path: Path, key: str) -> Digested:
        """Write the object from a file, over an older one."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Write the object to a file, whole or not at all. Raises MissingKey."""
        ...

    def folders(self, prefix: str) -> "Iterator[str]":
        """The names directly below `prefix` that have objects below them, ordered."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the object exists; False for a bare prefix."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects below `prefix`, at any depth, ordered by key."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens when there is none."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below `prefix`, not atomically. An empty prefix is a ValueError."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless it exists; of many callers at once exactly one gets True."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The object as a path on a local or mounted disk, None when it has none."""
        ...


def open_backend(uri: StorageUri) -> Backend:
    """Open the backend of `uri`; creates nothing.

    Raises:
        UserError: the scheme has no backend.
    """
    target = BACKENDS.get(uri.scheme)
    if target is None:
        raise UserError(
            f"storage {uri}: there is no backend for '{uri.scheme}://'",
            remedy=f"use one of {', '.join(sorted(BACKENDS))}",
        )
    module, _, name = target.partition(":")
    factory = cast(Callable[[str], Backend], getattr(import_module(module), name))
    return factory(uri.path)
