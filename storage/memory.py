"""The backend that lives in this process: for tests, and for trying things out."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from storage.backend import Entry, MissingKey, Tagged
from storage.disk_errors import disk_errors
from storage.durable import replace_file
from storage.manifest import FileEntry
from storage.names import check_key, check_prefix, check_range
from storage.uri import StorageUri


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
        check_range(start, length)
        return self.read_bytes(key)[start : start + length]

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

    def folders(self, prefix: str) -> tuple[str, ...]:
        """See `Backend`."""
        below = [entry.key.removeprefix(prefix) for entry in self.list(prefix)]
        return tuple(sorted({name.partition("/")[0] for name in below if "/" in name}))

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

    def read_tagged(self, key: str) -> Tagged:
        """See `Backend`."""
        data = self.read_bytes(key)
        return Tagged(data, _tag(data))

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """See `Backend`."""
        with self._lock:
            current = self._objects.get(check_key(key))
            if current is None or _tag(current) != tag:
                return None
            self._objects[key] = bytes(data)
        return _tag(data)

    def upload(self, path: Path, key: str) -> FileEntry:
        """See `Backend`."""
        check_key(key)
        with disk_errors(path):
            data = path.read_bytes()
        self.write_bytes(key, data)
        return FileEntry(key, len(data), _tag(data))

    def download(self, key: str, path: Path) -> None:
        """See `Backend`."""
        data = self.read_bytes(key)
        with disk_errors(path), replace_file(path) as file:
            file.write(data)

    def abort_uploads(self, prefix: str, older_than_s: float) -> tuple[str, ...]:
        """See `Backend`: an upload into memory is never left half done."""
        del older_than_s
        check_prefix(prefix)
        return ()

    def local_path(self, key: str) -> None:
        """See `Backend`: an object in memory has no path."""
        check_key(key)


def open_memory(uri: StorageUri) -> MemoryBackend:
    """A new, empty store."""
    return MemoryBackend(uri.path)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
