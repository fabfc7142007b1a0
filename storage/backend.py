"""The interface that every storage backend satisfies, and how one is opened.

Add a backend: one file with a class that has these methods and a function that makes one of a URI,
one line in `storage.BACKENDS`, one line in the contract test that runs over all backends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from jobs.errors import RaysmithError, UserError
from storage import BACKENDS
from storage.manifest import FileEntry
from storage.uri import StorageUri


class MissingKey(RaysmithError):
    """A key was read that nobody has written."""


@dataclass(frozen=True)
class Entry:
    """One stored object."""

    key: str
    size_bytes: int


@dataclass(frozen=True)
class Tagged:
    """An object as it was read, and what tells whether it is still that one."""

    data: bytes
    tag: str
    """Equal for equal content, so content that comes back is taken for never changed."""


class Backend(Protocol):
    """A flat map from keys to bytes, no richer than an object store.

    A key is a relative posix path (`a/b.json`); a prefix is empty or whole segments that end in
    `/`. Anything else is a ValueError. No key may also be a folder of another key.

    What is written is durable when the call returns, and was seen by nobody half written. A call
    that fails may or may not have taken effect; each may be repeated. An answer that was lost on
    the way is asked for again by the backend itself, so `create` and `replace` tell their own
    write from another's by its content: callers that compete must put something of their own into
    it (an owner and a random number, a counter), or two of them may be told that they won.

    All methods may be called by many threads at once, and raise, where nothing else is said:
        StorageError: the storage fails, or does not answer; worth trying again later.
        StorageRefused: it says no: credentials, permissions, no room; somebody must act first.

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
        """Read `length` bytes from `start` on, fewer where the object ends. Raises MissingKey."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the object exists; False for a bare prefix."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects below `prefix`, at any depth, ordered by key."""
        ...

    def folders(self, prefix: str) -> tuple[str, ...]:
        """The names directly below `prefix` that have objects below them, in order."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object; nothing happens when there is none."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below `prefix`, not atomically. An empty prefix is a ValueError."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless it exists; of many callers at once exactly one gets True.

        Raises NotSupported where the storage has no conditional writes and says so.
        """
        ...

    def read_tagged(self, key: str) -> Tagged:
        """Read the object with its tag, for `replace`. Raises MissingKey."""
        ...

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """Write over the object of this tag; its new tag, or None when it's another one or gone.

        Of many callers with one tag at most one gets a new tag. None may also mean that the object
        was written, and then written over by another before the answer, which was lost, could be
        asked for again: who counts must tell from the content whose writes are in it. On a disk, a
        `write_bytes` or `delete` at the same moment may go unnoticed. Raises NotSupported like
        `create`.
        """
        ...

    def upload(self, path: Path, key: str) -> FileEntry:
        """Store a file as the object, and tell its size and digest; the name is the key.

        A large one is sent in several parts at a time. One that fails leaves nothing behind. A
        key has one uploader at a time. Raises also StorageRefused when `path` can't be read.
        """
        ...

    def download(self, key: str, path: Path) -> None:
        """Write the object to a file, whose folder must exist; nobody sees a part of it.

        It is not flushed to the disk. Raises MissingKey.
        """
        ...

    def abort_uploads(self, prefix: str, older_than_s: float) -> tuple[str, ...]:
        """End uploads below `prefix` that were begun so long ago and never ended; what they were.

        They belong to writers that were killed, and take room that `list` does not show.
        """
        ...

    def local_path(self, key: str) -> Path | None:
        """The object as a path on a local or mounted disk, None when it has none."""
        ...


def open_backend(uri: StorageUri) -> Backend:
    """Open the backend of `uri`; creates nothing.

    Raises:
        UserError: the scheme has no backend, or its library is not installed.
    """
    target = BACKENDS.get(uri.scheme)
    if target is None:
        raise UserError(
            f"storage {uri}: there is no backend for '{uri.scheme}://'",
            remedy=f"use one of {', '.join(sorted(BACKENDS))}",
        )
    module, _, name = target.partition(":")
    factory = cast(Callable[[StorageUri], Backend], getattr(import_module(module), name))
    return factory(uri)
