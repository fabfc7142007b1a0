"""What is committed: read, compared with what is there, and brought here from a store.

See `storage.commit` for the protocol.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple

from jobs.errors import RaysmithError
from storage import remote
from storage.durable import TEMP_PREFIX, locked, write_atomic
from storage.manifest import (
    MARKER_FILE,
    OWNER_FILE,
    FileEntry,
    Manifest,
    Owner,
    manifest_from_json,
    manifest_to_json,
    owner_from_json,
    owner_to_json,
)
from storage.working_copy import Place, here, place_of

Verify = Literal["sizes", "digests"]

_CHUNK_BYTES: Final = 1 << 20
HASH_THREADS: Final = 4


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


def read_owner(folder: Path) -> Owner | None:
    """Who claimed the folder; None when nobody did or the claim is not readable as JSON.

    Raises OSError when the disk refuses.
    """
    place = place_of(folder)
    return remote.read_owner(place) if place else owner_here(folder)


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


def present(folder: Path) -> Path:
    """The committed folder, brought to this machine if need be; on a disk it is as it is.

    Raises:
        RaysmithError: the store has no such folder, or it is damaged.
    """
    if place_of(folder) is None:
        return folder
    folder = here(folder)
    if fetch(folder) is None:
        raise RaysmithError(inspect(folder).reason, "run the stage again that made it")
    return folder


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


def unfinished(folder: Path) -> list[Path]:
    """The folders below `folder` that were claimed and have no marker, in order."""
    if place := place_of(folder):
        names = {entry.key.removeprefix(place.prefix) for entry in place.store.list(place.prefix)}
        claimed = {PurePosixPath(name).parent for name in names if name.endswith(f"/{OWNER_FILE}")}
        return sorted(folder / each for each in claimed if f"{each}/{MARKER_FILE}" not in names)
    return sorted(
        Path(parent)
        for parent, _, names in os.walk(folder)
        if OWNER_FILE in names and MARKER_FILE not in names
    )


def owner_here(folder: Path) -> Owner | None:
    """Who claimed the folder on this machine, as `read_owner`."""
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


def file_sha256(path: Path) -> str:
    """The hexadecimal digest of a file's content."""
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
        path.is_file()
        and path.stat().st_size == file.size_bytes
        and file_sha256(path) == file.sha256
    )


def _first_other_digest(folder: Path, manifest: Manifest) -> str:
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = pool.map(lambda file: file_sha256(folder / file.name), manifest.files)
        for file, digest in zip(manifest.files, digests, strict=True):
            if digest != file.sha256:
                return f"the content of {file.name} is not what was committed (sha256 differs)"
    return ""
