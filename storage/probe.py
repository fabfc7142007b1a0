"""What a storage can do, found out by doing it."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass

from jobs.errors import NotSupported, RaysmithError
from storage.backend import Backend

PROBE_PREFIX = ".raysmith-probe/"
"""Keys that are tried lie below this, for a moment."""


@dataclass(frozen=True)
class Abilities:
    """Which conditional writes the storage does, and not only takes."""

    create_exclusive: bool
    """Of writers that create one object, one is told that it did, the others that they did not."""

    compare_and_swap: bool
    """Who replaces an object that is no longer the one it read is told so."""

    @property
    def fences(self) -> bool:
        """Whether two drivers of one run are told apart. Without it there must be only one."""
        return self.create_exclusive and self.compare_and_swap


NO_ABILITIES = Abilities(create_exclusive=False, compare_and_swap=False)
"""What storage has that could not be tried."""


def probe(backend: Backend) -> Abilities:
    """Try conditional writes on an object of our own, which is removed again.

    Services exist that refuse conditions, and such that pass over them without a word.

    Raises:
        StorageError, StorageRefused: the storage fails, or can't be written.
    """
    key = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
    try:
        return Abilities(_creates_once(backend, key), _swaps(backend, f"{key}-swap"))
    finally:
        with suppress(RaysmithError):
            backend.delete(key)
            backend.delete(f"{key}-swap")


def _creates_once(backend: Backend, key: str) -> bool:
    try:
        return backend.create(key, b"first") and not backend.create(key, b"second")
    except NotSupported:
        return False


def _swaps(backend: Backend, key: str) -> bool:
    backend.write_bytes(key, b"first")
    tag = backend.read_tagged(key).tag
    try:
        swapped = backend.replace(key, b"second", tag) is not None
        return swapped and backend.replace(key, b"third", tag) is None
    except NotSupported:
        return False
