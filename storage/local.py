"""The backend for a folder on a local or mounted disk."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from storage.backend import Entry, MissingKey, Tagged
from storage.disk_errors import disk_errors
from storage.durable import (
    TEMP_PREFIX,
    create_exclusive,
    fsync_folder,
    locked,
    replace_file,
    write_atomic,
)
from storage.manifest import FileEntry
from storage.names import check_key, check_prefix, check_range, contained
from storage.uri import StorageUri

_LOCK_FILE: Final = f"{TEMP_PREFIX}lock"
_CHUNK_BYTES: Final = 1 << 20


class LocalBackend:
    """Keys are paths below `root`, which is made on the first write.

    A key that a symbolic link leads out of the root is a UserError; links are not listed.
    `replace` takes turns by a lock file in the root.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)

    def write_bytes(self, key: str, data: bytes) -> None:
        """See `Backend`."""
        with disk_errors(self._root / key):
            write_atomic(self._writable(key), data)

    def read_bytes(self, key: str) -> bytes:
        """See `Backend`."""
        return self._read(key, 0, -1)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Backend`."""
        check_range(start, length)
        return self._read(key, start, length)

    def exists(self, key: str) -> bool:
        """See `Backend`."""
        path = self.local_path(key)
        with disk_errors(path):
            return path.is_file()

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Backend`."""
        start = contained(self._root, check_prefix(prefix))
        with disk_errors(start):
            # By key and not by folder: "a.b" sorts before "a/b" in an object store.
            entries = sorted(self._walk(start), key=lambda entry: entry.key)
        yield from entries

    def folders(self, prefix: str) -> tuple[str, ...]:
        """See `Backend`; a folder that is empty counts too."""
        start = contained(self._root, check_prefix(prefix))
        with disk_errors(start):
            try:
                with os.scandir(start) as found:
                    names = [each.name for each in found if each.is_dir(follow_symlinks=False)]
            except (FileNotFoundError, NotADirectoryError):
                return ()
        return tuple(sorted(name for name in names if not name.startswith(TEMP_PREFIX)))

    def delete(self, key: str) -> None:
        """See `Backend`."""
        path = self.local_path(key)
        with disk_errors(path):
            if path.is_file():
                path.unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """See `Backend`."""
        if not prefix:
            raise ValueError("delete_prefix('') would delete the whole store")
        folder = contained(self._root, check_prefix(prefix))
        with disk_errors(folder):
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                shutil.rmtree(folder)

    def create(self, key: str, data: bytes) -> bool:
        """See `Backend`."""
        with disk_errors(self._root / key):
            return create_exclusive(self._writable(key), data)

    def read_tagged(self, key: str) -> Tagged:
        """See `Backend`."""
        data = self.read_bytes(key)
        return Tagged(data, _tag(data))

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        """See `Backend`."""
        path = self.local_path(key)
        with disk_errors(path):
            if not path.is_file():
                return None
            with locked(self._root / _LOCK_FILE):
                try:
                    if _tag(path.read_bytes()) != tag:
                        return None
                except FileNotFoundError:
                    return None
                write_atomic(path, data)
        return _tag(data)

    def upload(self, path: Path, key: str) -> FileEntry:
        """See `Backend`."""
        target = self.local_path(key)
        digest, size_bytes = hashlib.sha256(), 0
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        with disk_errors(path):
            source = path.open("rb", buffering=0)
        with source, disk_errors(target), replace_file(self._writable(key)) as file:
            while count := source.readinto(buffer):
                digest.update(buffer[:count])
                file.write(buffer[:count])
                size_bytes += count
            file.flush()
            os.fsync(file.fileno())
        with disk_errors(target):
            fsync_folder(target.parent)
        return FileEntry(key, size_bytes, digest.hexdigest())

    def download(self, key: str, path: Path) -> None:
        """See `Backend`."""
        source = self.local_path(key)
        try:
            opened = source.open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise self._missing(key) from error
        with opened, disk_errors(path), replace_file(path) as file:
            shutil.copyfileobj(opened, file, _CHUNK_BYTES)

    def abort_uploads(self, prefix: str, older_than_s: float) -> tuple[str, ...]:
        """See `Backend`: files that were being written when their writer was killed."""
        start = contained(self._root, check_prefix(prefix))
        ended = []
        with disk_errors(start):
            for path in self._files(start):
                if not path.name.startswith(TEMP_PREFIX) or path == self._root / _LOCK_FILE:
                    continue
                try:
                    if time.time() - path.lstat().st_mtime >= older_than_s:
                        path.unlink()
                        ended.append(path.relative_to(self._root).as_posix())
                except FileNotFoundError:
                    continue  # its writer lives, and has published it
        return tuple(sorted(ended))

    def local_path(self, key: str) -> Path:
        """See `Backend`."""
        return contained(self._root, check_key(key))

    def _read(self, key: str, start: int, length: int) -> bytes:
        path = self.local_path(key)
        with disk_errors(path):
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(length)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise self._missing(key) from error

    def _missing(self, key: str) -> MissingKey:
        return MissingKey(
            f"there is no {key!r} in {self._root}",
            remedy="check the storage root and that the run got as far as writing it",
        )

    def _writable(self, key: str) -> Path:
        path = self.local_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _walk(self, start: Path) -> Iterator[Entry]:
        for path in self._files(start):
            if path.name.startswith(TEMP_PREFIX) or path.is_symlink():
                continue
            try:
                size_bytes = path.stat().st_size
            except FileNotFoundError:
                continue  # deleted since the folder was read
            yield Entry(path.relative_to(self._root).as_posix(), size_bytes)

    def _files(self, start: Path) -> Iterator[Path]:
        for folder, _, names in os.walk(start, onerror=_raise_unless_gone):
            yield from (Path(folder, name) for name in names)


def open_local(uri: StorageUri) -> LocalBackend:
    """The store in the folder of the URI."""
    return LocalBackend(uri.path)


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
