"""Folders to and from a backend, many files at a time.

Files go in parallel here, and the parts of large ones within the backend, which bounds how many
requests are under way in all: many small files and few large ones are both fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, TypeVar

from jobs.errors import StorageError
from storage.backend import Backend
from storage.disk_errors import disk_errors
from storage.manifest import FileEntry
from storage.names import check_prefix, contained

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS: Final = 16
"""Files that are under way at a time."""


def upload_folder(
    backend: Backend, prefix: str, root: Path, names: Sequence[str], threads: int = THREADS
) -> tuple[FileEntry, ...]:
    """Store the files `names` of the folder `root` below `prefix`; what they are, ordered by name.

    One that is there is written over. After an error some may be there, each of them whole.

    Raises:
        StorageError, StorageRefused: the storage or the disk fails or refuses.
        UserError: a name leads out of the folder.
    """
    check_prefix(prefix)

    def upload(name: str) -> FileEntry:
        done = backend.upload(contained(root, name), prefix + name)
        return FileEntry(name, done.size_bytes, done.sha256)

    def size_bytes(name: str) -> int:
        with disk_errors(root / name):
            return contained(root, name).stat().st_size

    # The largest first, so that none of them is left to the end, alone.
    ordered = sorted(names, key=size_bytes, reverse=True)
    return tuple(sorted(_all(upload, ordered, threads), key=lambda file: file.name))


def download_folder(
    backend: Backend, prefix: str, root: Path, entries: Iterable[FileEntry], threads: int = THREADS
) -> None:
    """Write the objects of `entries` below `prefix` as files of the folder `root`, made if missing.

    A file is there whole or not at all. Sizes are checked; digests are for the caller to check.

    Raises:
        MissingKey: one of them is not there.
        StorageError: one has another size, or the storage fails.
        StorageRefused: the storage or the disk refuses.
        UserError: a name leads out of the folder.
    """
    check_prefix(prefix)

    def download(entry: FileEntry) -> None:
        path = contained(root, entry.name)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        backend.download(prefix + entry.name, path)
        with disk_errors(path):
            found = path.stat().st_size
        if found != entry.size_bytes:
            raise StorageError(
                f"{prefix}{entry.name} has {found} bytes, {entry.size_bytes} were stored",
                "it is damaged: use an older copy",
            )

    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    ordered = sorted(entries, key=lambda entry: entry.size_bytes, reverse=True)
    _all(download, ordered, threads)


def _all(action: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """The results, in no order. After the first failure no other item is begun."""
    with ThreadPoolExecutor(threads, thread_name_prefix="transfer") as pool:
        futures = [pool.submit(action, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        failed = [each for each in futures if each.done() and each.exception() is not None]
        if failed:
            for future in futures:
                future.cancel()
            failed[0].result()
        return [future.result() for future in futures]
