"""Moves the files of a folder to a store and back, several at a time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from storage.backend import Backend
from storage.manifest import FileEntry

_THREADS: Final = 8


def upload_folder(
    store: Backend, prefix: str, folder: Path, names: Sequence[str]
) -> tuple[FileEntry, ...]:
    """Stores files of `folder` below `prefix`."""

    def upload(name: str) -> FileEntry:
        done = store.upload(folder / name, prefix + name)
        return FileEntry(name, done.size_bytes, done.sha256)

    with ThreadPoolExecutor(_THREADS) as pool:
        return tuple(pool.map(upload, names))


def download_folder(store: Backend, prefix: str, folder: Path, files: Sequence[FileEntry]) -> None:
    """Brings files below `prefix` to `folder`."""

    def download(file: FileEntry) -> None:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(prefix + file.name, path)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(download, files))
