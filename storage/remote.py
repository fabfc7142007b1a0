"""The commit protocol for a folder of a working copy: the same files and markers, in the store.

Objects are written before the marker, which is created and never replaced, so that of two writers
one at most commits; see `storage.commit` for the rest of the protocol.
"""

from collections.abc import Sequence
from pathlib import Path

from jobs.errors import RaysmithError
from storage.backend import MissingKey
from storage.claim import StaleAttempt, check_is_owner, check_may_take, foreign
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
from storage.transfer import download_folder, upload_folder
from storage.working_copy import Place


class Damaged(RaysmithError):
    """What the store holds is not what was committed; `reason` says in what way."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(f"{place} is damaged: {reason}", "run the stage again")
        self.reason = reason


def read_owner(place: Place) -> Owner | None:
    """Who claimed the folder; None when nobody did, or not readably."""
    try:
        return owner_from_json(place.store.read_bytes(place.prefix + OWNER_FILE))
    except (MissingKey, ValueError):
        return None


def claim(place: Place, owner: Owner) -> None:
    """Claims the folder and empties it; an older attempt can't commit from here on.

    Raises:
        StaleAttempt: a later attempt owns it.
        ForeignFolder: it is not empty and not of this stage and run.
    """
    key, data = place.prefix + OWNER_FILE, owner_to_json(owner)
    while not _claimed(place, key, data, owner):
        pass  # another attempt came in between
    _clear(place)


def upload(place: Place, folder: Path, names: Sequence[str], owner: Owner) -> tuple[FileEntry, ...]:
    """Stores files of the working copy's `folder`, in parallel. Raises as `check_is_owner`."""
    check_is_owner(place, read_owner(place), owner)
    return upload_folder(place.store, place.prefix, folder, names)


def mark(place: Place, manifest: Manifest) -> None:
    """Makes what was uploaded visible to readers. Raises as `check_is_owner`."""
    check_is_owner(place, read_owner(place), manifest.owner)
    if not place.store.create(place.prefix + MARKER_FILE, manifest_to_json(manifest)):
        raise StaleAttempt(f"another attempt committed {place}", "let it go on; end this one")


def read_manifest(place: Place) -> Manifest | None:
    """What was committed; None where nothing was. Raises ValueError for a damaged marker."""
    try:
        return manifest_from_json(place.store.read_bytes(place.prefix + MARKER_FILE))
    except MissingKey:
        return None


def first_difference(place: Place, manifest: Manifest) -> str:
    """What of a committed folder is missing or of another size; empty when nothing is."""
    sizes = {entry.key: entry.size_bytes for entry in place.store.list(place.prefix)}
    for file in manifest.files:
        size = sizes.get(place.prefix + file.name)
        if size is None:
            return f"{file.name} is missing"
        if size != file.size_bytes:
            return f"{file.name} has {size} bytes, {file.size_bytes} were committed"
    return ""


def download(place: Place, files: Sequence[FileEntry], folder: Path) -> None:
    """Brings files of a committed folder here, in parallel; their content is not verified."""
    download_folder(place.store, place.prefix, folder, files)


def discard(place: Place) -> None:
    """Deletes the folder: the marker first, the claim last."""
    _clear(place)
    place.store.delete(place.prefix + OWNER_FILE)


def _claimed(place: Place, key: str, data: bytes, owner: Owner) -> bool:
    try:
        current = place.store.read_tagged(key)
    except MissingKey:
        if next(place.store.list(place.prefix), None):
            raise foreign(place, f"it holds files and no {OWNER_FILE}") from None
        return place.store.create(key, data)
    try:
        earlier = owner_from_json(current.data)
    except ValueError as error:
        raise foreign(place, f"its {OWNER_FILE} can't be read: {error}") from error
    check_may_take(place, earlier, owner)
    return place.store.replace(key, data, current.tag) is not None


def _clear(place: Place) -> None:
    place.store.delete(place.prefix + MARKER_FILE)
    for entry in list(place.store.list(place.prefix)):
        if entry.key != place.prefix + OWNER_FILE:
            place.store.delete(entry.key)
