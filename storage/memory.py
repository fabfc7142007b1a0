"""The backend that lives in this process: for tests, and for trying things out."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from storage.backend import Digested, Entry, MissingKey, Tagged
from storage.durable import write_atomic
from storage.names import check_key, check_prefix


class MemoryBackend:
    """A dict behind a lock. Each instance is a store of its own; `name` is for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._lock = Lock()

    def write_bytes(self, key: str, data: bytes) -> None:
        """See `Backend`."""
        with self._lock:
            self._objects[check_key(key)] = bytes(data)

    def read_bytes(self, key: str) -> bytes:
        """See `Backend`."""
        with self._lock:
            data = self._objects.get(check_key(key))
        if data is None:
            raise MissingKey(f"there is no {key!r} in memory://{self._name}")
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Backend`."""
        return self.read_bytes(key)[start : start + length]

    def read_tagged(self, key: str) -> Tagged:
        """See `Backend`."""
        data = self.read_bytes(key)
        return Tagged(data, hashlib.sha256(data).hexdigest())

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """See `Backend`."""
        with self._lock:
            old = self._objects.get(check_key(key))
            if old is None or hashlib.sha256(old).hexdigest() != tag:
                return None
            self._objects[key] = bytes(data)
        return hashlib.sha256(data).hexdigest()

    def upload(self, path: Path, key: str) -> Digested:
        """See `Backend`."""
        data = path.read_bytes()
        self.write_bytes(key, data)
        return Digested(len(data), hashlib.sha256(data).hexdigest())

    def download(self, key: str, path: Path) -> None:
        """See `Backend`."""
        write_atomic(path, self.read_bytes(key))

    def folders(self, prefix: str) -> Iterator[str]:
        """See `Backend`."""
        below = (entry.key.removeprefix(prefix) for entry in self.list(prefix))
        yield from sorted({key.partition("/")[0] for key in below if "/" in key})

    def exists(self, key: str) -> bool:
        """See `Backend`."""
        with self._lock:
            return check_key(key) in self._objects

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Backend`."""
        check_prefix(prefix)
        with self._lock:
            entries = [
                Entry(key, len(data))
                for key, data in sorted(self._objects.items())
                if key.startswith(prefix)
            ]
        yield from entries

    def delete(self, key: str) -> None:
        """See `Backend`."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def delete_prefix(self, prefix: str) -> None:
        """See `Backend`."""
        if not check_prefix(prefix):
            raise ValueError("delete_prefix('') would delete the whole store")
        with self._lock:
            for key in [key for key in self._objects if key.startswith(prefix)]:
                del self._objects[key]

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""
        with self._lock:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def local_path(self, key: str) -> None:
        """See `Backend`: an object in memory has no path."""
        check_key(key)
