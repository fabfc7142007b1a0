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

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from jobs.errors import RaysmithError
from storage import remote
from storage.claim import ForeignFolder, StaleAttempt, check_is_owner, check_may_take, foreign
from storage.durable import (
    TEMP_PREFIX,
    fsync_file,
    fsync_folder,
    link_or_copy,
    locked,
    write_atomic,
)
from storage.manifest import (
    JSON,
    MARKER_FILE,
    OWNER_FILE,
    FileEntry,
    Manifest,
    Owner,
    manifest_from_json,
    manifest_to_json,
    normal_meta,
    owner_from_json,
    owner_to_json,
)
from storage.working_copy import Place, place_of

__all__ = [
    "ForeignFolder",
    "Newest",
    "StaleAttempt",
    "Verdict",
    "add",
    "adopt",
    "begin",
    "commit",
    "discard",
    "fetch",
    "inspect",
    "newest_committed",
    "read_committed",
    "read_owner",
]

Verify = Literal["sizes", "digests"]

_CHUNK_BYTES: Final = 1 << 20
_HASH_THREADS: Final = 4


@dataclass(frozen=True)
class Verdict:
    """Whether a folder is committed, and why not, in words for a person."""

    committed: bool
    reason: str
    """Empty when committed."""
    manifest: Manifest | None
    """Set when the marker could be read, also when the files disagree with it."""
    readable: bool = True
    """False when the disk refused to answer: the content may well be whole."""


class Newest(NamedTuple):
    """The newest committed folder, and what is wrong with each newer one."""

    manifest: Manifest
    folder: Path
    skipped: list[str]


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
    current = _owner_here(folder)
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
    check_is_owner(folder, _owner_here(folder), owner)
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
        check_is_owner(folder, _owner_here(folder), owner)
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


def read_owner(folder: Path) -> Owner | None:
    """Who claimed the folder; None when nobody did or the claim is not readable as JSON.

    Raises OSError when the disk refuses.
    """
    place = place_of(folder)
    return remote.read_owner(place) if place else _owner_here(folder)


def fetch(folder: Path) -> Manifest | None:
    """Makes a committed folder of a store be here too, whole, and gives its manifest.

    What is here already is kept, the rest is brought in parallel, and its content is verified.
    Processes of one machine wait for one another. On a disk it is there already. None: it is not
    committed; `inspect` says why.

    Raises:
        RaysmithError: what the store holds is not what was committed.
    """
    place = place_of(folder)
    if place is None:
        return read_committed(folder)
    with locked(folder.with_name(f"{TEMP_PREFIX}{folder.name}.lock")):
        return _fetch(folder, place)


def inspect(folder: Path, verify: Verify = "sizes") -> Verdict:
    """Compare the folder with its marker: by size, or by content too, which reads every byte."""
    place = place_of(folder)
    if place:
        return _inspect_stored(folder, place, verify)
    try:
        manifest = manifest_from_json((folder / MARKER_FILE).read_bytes())
        reason = _difference(folder, manifest, verify)
    except (FileNotFoundError, NotADirectoryError):
        return Verdict(False, f"{folder} has no {MARKER_FILE}: it was never finished", None)
    except ValueError as error:
        return Verdict(False, f"{folder / MARKER_FILE} is damaged: {error}", None)
    except OSError as error:
        return Verdict(False, f"{folder} cannot be read: {error}", None, readable=False)
    return Verdict(not reason, f"{folder} is damaged: {reason}" if reason else "", manifest)


def read_committed(folder: Path, verify: Verify = "sizes") -> Manifest | None:
    """The manifest of a committed folder, None for any other; `inspect` says why."""
    verdict = inspect(folder, verify)
    return verdict.manifest if verdict.committed else None


def newest_committed(folders: Iterable[Path], verify: Verify = "sizes") -> Newest | None:
    """The last committed of `folders`, which come oldest first; None when none is."""
    skipped: list[str] = []
    for folder in reversed(list(folders)):
        verdict = inspect(folder, verify)
        if verdict.committed and verdict.manifest is not None:
            return Newest(verdict.manifest, folder, skipped)
        skipped.append(verdict.reason)
    return None


def _refuse_non_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise foreign(folder, "it is a link or a file, not a folder")


def _owner_here(folder: Path) -> Owner | None:
    try:
        return owner_from_json((folder / OWNER_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _inspect_stored(folder: Path, place: Place, verify: Verify) -> Verdict:
    manifest = None
    try:
        manifest = remote.read_manifest(place)
        if manifest is None:
            return Verdict(False, f"{place} has no {MARKER_FILE}: it was never finished", None)
        if verify == "digests":
            fetch(folder)
            reason = ""
        else:
            reason = remote.first_difference(place, manifest)
    except remote.Damaged as error:
        reason = error.reason
    except ValueError as error:
        return Verdict(False, f"{place} has a damaged {MARKER_FILE}: {error}", None)
    return Verdict(not reason, f"{place} is damaged: {reason}" if reason else "", manifest)


def _fetch(folder: Path, place: Place) -> Manifest | None:
    manifest = remote.read_manifest(place)
    if manifest is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    marker, here = manifest_to_json(manifest), folder / MARKER_FILE
    if not here.exists() or here.read_bytes() != marker or _difference(folder, manifest, "sizes"):
        here.unlink(missing_ok=True)
        missing = tuple(file for file in manifest.files if not _is_whole(folder, file))
        remote.download(place, missing, folder)
        if reason := _difference(folder, replace(manifest, files=missing), "digests"):
            raise remote.Damaged(place, reason)
    write_atomic(folder / OWNER_FILE, owner_to_json(manifest.owner))
    write_atomic(folder / MARKER_FILE, marker)
    return manifest


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
        return FileEntry(name, path.stat().st_size, _sha256(path))

    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        return tuple(pool.map(describe, names))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _difference(folder: Path, manifest: Manifest, verify: Verify) -> str:
    for file in manifest.files:
        try:
            found = (folder / file.name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{file.name} is missing"
        if not stat.S_ISREG(found.st_mode):
            return f"{file.name} is not a plain file"
        if found.st_size != file.size_bytes:
            return f"{file.name} has {found.st_size} bytes, {file.size_bytes} were committed"
    return _first_other_digest(folder, manifest) if verify == "digests" else ""


def _is_whole(folder: Path, file: FileEntry) -> bool:
    path = folder / file.name
    return (
        path.is_file() and path.stat().st_size == file.size_bytes and _sha256(path) == file.sha256
    )


def _first_other_digest(folder: Path, manifest: Manifest) -> str:
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        digests = pool.map(lambda file: _sha256(folder / file.name), manifest.files)
        for file, digest in zip(manifest.files, digests, strict=True):
            if digest != file.sha256:
                return f"the content of {file.name} is not what was committed (sha256 differs)"
    return ""
