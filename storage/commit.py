"""The commit protocol for a folder on a disk, or in the working copy of a store that is none.

A writer calls `begin`, which claims the folder with `_OWNER.json`; writes its files; and calls
`commit`, which flushes and digests them and writes `_COMMITTED.json` last. Readers trust only a
folder whose marker is there and agrees with the files, so a writer may be killed at any point.

An attempt that finds a later attempt's name in the folder stops with `StaleAttempt`. The check and
the write after it are two steps: this catches a writer that comes back late, and is no lock between
writers that run at the same moment.

Below a working copy (`storage.working_copy`) the store decides: a folder is claimed there, and its
files are stored and marked there first. What is here is a copy, which `fetch` makes good.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobs.errors import RaysmithError
from storage import remote
from storage.claim import check_is_owner, check_may_take, foreign
from storage.committed import HASH_THREADS, file_sha256, owner_here, present
from storage.durable import TEMP_PREFIX, fsync_file, fsync_folder, link_or_copy, write_atomic
from storage.manifest import (
    JSON,
    MARKER_FILE,
    OWNER_FILE,
    FileEntry,
    Manifest,
    Owner,
    manifest_to_json,
    normal_meta,
    owner_to_json,
)
from storage.working_copy import place_of


def begin(folder: Path, owner: Owner) -> None:
    """Claim `folder` for `owner` and leave it empty but for `_OWNER.json`.

    What this or an earlier attempt of the same stage and run left there is deleted, committed
    or not. Links inside are deleted, never followed.

    Raises:
        StaleAttempt: a later attempt owns it.
        ForeignFolder: it is not empty and not of this stage and run.
        OSError: the disk refuses.
    """
    _refuse_non_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if place := place_of(folder):
        remote.claim(place, owner)
    current = owner_here(folder)
    if current is not None:
        check_may_take(folder, current, owner)
    elif any(not _is_owner_debris(path.name) for path in folder.iterdir()):
        raise foreign(folder, f"it holds files and no readable {OWNER_FILE}")
    # The claim comes first: from here on an older attempt that is still alive cannot commit.
    write_atomic(folder / OWNER_FILE, owner_to_json(owner))
    _clear(folder)


def add(folder: Path, names: Sequence[str], owner: Owner) -> tuple[FileEntry, ...]:
    """Make some files of a folder that another process began durable, for it to commit.

    So that each of many writers flushes, digests and stores what it wrote itself.

    Raises:
        StaleAttempt, ForeignFolder, OSError: as `commit`.
    """
    if place := place_of(folder):
        return remote.upload(place, folder, names, owner)
    return _flush_and_describe(folder, names)


def commit(
    folder: Path, owner: Owner, meta: Mapping[str, JSON], added: Iterable[FileEntry] = ()
) -> Manifest:
    """Make the files in `folder`, nested ones too, durable and visible to readers.

    `added` are those that other processes have made durable, with `add`.

    Raises:
        StaleAttempt: a later attempt owns the folder.
        ForeignFolder: `owner` did not begin it.
        RaysmithError: it holds a link or another thing that is no plain file.
        TypeError, ValueError: JSON cannot hold `meta`.
        OSError: the disk refuses.
    """
    check_is_owner(folder, owner_here(folder), owner)
    meta = normal_meta(meta)
    found, folders = _scan(folder)
    by_others = {file.name: file for file in added}
    mine = add(folder, [name for name in found if name not in by_others], owner)
    files = tuple(sorted((*mine, *by_others.values()), key=lambda file: file.name))
    manifest = Manifest(owner, files, meta)
    if place := place_of(folder):
        remote.mark(place, manifest)
    else:
        for each in folders:
            fsync_folder(each)
        check_is_owner(folder, owner_here(folder), owner)
    write_atomic(folder / MARKER_FILE, manifest_to_json(manifest))
    fsync_folder(folder.parent)
    return manifest


def adopt(
    source: Path, manifest: Manifest, folder: Path, owner: Owner, meta: Mapping[str, JSON],
    leave_out: tuple[str, ...] = (),
) -> Manifest:  # fmt: skip
    """Commit the files of a committed folder in another one, linked where the disk knows how.

    `leave_out` are beginnings of names that stay behind.

    Raises:
        FileNotFoundError: `source` is being deleted.
        StaleAttempt, ForeignFolder, OSError: as `begin` and `commit`.
    """
    present(source)
    begin(folder, owner)
    for file in manifest.files:
        if not file.name.startswith(leave_out):
            link_or_copy(source / file.name, folder / file.name)
    return commit(folder, owner, meta)


def discard(folder: Path) -> None:
    """Delete a folder of the protocol so that no half of it is ever taken for committed.

    The marker goes first, the owner file last; killed in between and called again, it goes on.
    Links inside are deleted, never followed. Raises OSError when the disk refuses.
    """
    if place := place_of(folder):
        remote.discard(place)
        if not folder.exists():
            return
    _clear(folder)
    (folder / OWNER_FILE).unlink(missing_ok=True)
    folder.rmdir()


def _refuse_non_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise foreign(folder, "it is a link or a file, not a folder")


def _is_owner_debris(name: str) -> bool:
    # What is left of the claim itself when begin() was killed while it wrote it.
    return name.startswith(f"{TEMP_PREFIX}{OWNER_FILE}")


def _clear(folder: Path) -> None:
    (folder / MARKER_FILE).unlink(missing_ok=True)
    fsync_folder(folder)
    for path in folder.iterdir():
        if path.name == OWNER_FILE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _scan(folder: Path) -> tuple[list[str], list[Path]]:
    names: list[str] = []
    folders: list[Path] = []
    for parent, subfolders, files in os.walk(folder, onerror=_raise):
        folders.append(Path(parent))
        # os.walk lists a link to a folder among the folders, and does not enter it.
        for path in (Path(parent, name) for name in subfolders + files):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                names.append(path.relative_to(folder).as_posix())
            elif not stat.S_ISDIR(mode):
                raise RaysmithError(
                    f"cannot commit {folder}: {path} is a link or no plain file",
                    remedy="copy the content into the folder; a commit must be complete in itself",
                )
    content = [name for name in names if not _is_protocol_file(name)]
    return sorted(content), folders


def _raise(error: OSError) -> None:
    # os.walk passes over a folder that it cannot read, and the commit would lack its files.
    raise error


def _is_protocol_file(name: str) -> bool:
    own = (MARKER_FILE, OWNER_FILE)
    return name in own or name.startswith(tuple(f"{TEMP_PREFIX}{each}" for each in own))


def _flush_and_describe(folder: Path, names: Sequence[str]) -> tuple[FileEntry, ...]:
    def describe(name: str) -> FileEntry:
        path = folder / name
        fsync_file(path)
        return FileEntry(name, path.stat().st_size, file_sha256(path))

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return tuple(pool.map(describe, names))
