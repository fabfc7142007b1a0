"""The backend for a folder on a local or mounted disk."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from storage.backend import Digested, Entry, MissingKey, Tagged
from storage.durable import TEMP_PREFIX, create_exclusive, locked, write_atomic
from storage.names import check_key, check_prefix, contained


class LocalBackend:
    """Keys are paths below `root`, which is made on the first write.

    A key that a symbolic link leads out of the root is a UserError; links are not listed.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def write_bytes(self, key: str, data: bytes) -> None:
        """See `Backend`."""
        write_atomic(self._writable(key), data)

    def read_bytes(self, key: str) -> bytes:
        """See `Backend`."""
        path = self.local_path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise MissingKey(
                f"there is no {key!r} in {self._root}",
                remedy="check the storage root and that the run got as far as writing it",
            ) from error

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Backend`."""
        return self.read_bytes(key)[start : start + length]

    def read_tagged(self, key: str) -> Tagged:
        """See `Backend`."""
        data = self.read_bytes(key)
        return Tagged(data, hashlib.sha256(data).hexdigest())

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """See `Backend`."""
        path = self._writable(key)
        with locked(path.with_name(f"{TEMP_PREFIX}{path.name}.lock")):
            try:
                if self.read_tagged(key).tag != tag:
                    return None
            except MissingKey:
                return None
            write_atomic(path, data)
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
        return self.local_path(key).is_file()

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Backend`."""
        start = contained(self._root, check_prefix(prefix))
        # By key and not by folder: "a.b" sorts before "a/b" in an object store.
        yield from sorted(self._walk(start), key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """See `Backend`."""
        path = self.local_path(key)
        if path.is_file():
            path.unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """See `Backend`."""
        if not prefix:
            raise ValueError("delete_prefix('') would delete the whole store")
        folder = contained(self._root, check_prefix(prefix))
        if folder.is_symlink():
            folder.unlink()
        elif folder.is_dir():
            shutil.rmtree(folder)

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""
        return create_exclusive(self._writable(key), data)

    def local_path(self, key: str) -> Path:
        """See `Backend`."""
        return contained(self._root, check_key(key))

    def _writable(self, key: str) -> Path:
        path = self.local_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _walk(self, start: Path) -> Iterator[Entry]:
        for folder, _, names in os.walk(start, onerror=_raise_unless_gone):
            for name in names:
                path = Path(folder, name)
                if name.startswith(TEMP_PREFIX) or path.is_symlink():
                    continue
                try:
                    size_bytes = path.stat().st_size
                except FileNotFoundError:
                    continue  # deleted since the folder was read
                yield Entry(path.relative_to(self._root).as_posix(), size_bytes)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
