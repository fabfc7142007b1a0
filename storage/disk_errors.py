"""What a disk's errors mean to a person, and whether it helps to try again."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobs.errors import RaysmithError, StorageError, StorageRefused

_REFUSALS: Final[dict[int, tuple[str, str]]] = {
    errno.ENOSPC: ("the disk is full", "free some room, or choose another storage root"),
    errno.EDQUOT: ("the quota is used up", "free some room, or have the quota raised"),
    errno.EROFS: ("the disk is read-only", "mount it writable, or choose another storage root"),
    errno.EACCES: ("permission denied", "let this user write there, or choose another root"),
    errno.EPERM: ("the operation is not permitted", "let this user write there"),
    errno.ENAMETOOLONG: ("the path is too long", "choose a shorter storage root or name"),
    errno.EFBIG: ("the file is too large for its filesystem", "choose another storage root"),
    errno.ENOENT: ("there is no such file or folder", "check the path"),
    errno.ENOTDIR: ("a file stands where a folder must be", "check the storage root"),
    errno.EISDIR: ("a folder stands where a file must be", "check the storage root"),
}


def disk_error(error: OSError, path: Path) -> RaysmithError:
    """The error to raise for what the disk answered about `path`."""
    known = _REFUSALS.get(error.errno or 0)
    if known is not None:
        what, remedy = known
        return StorageRefused(f"{path}: {what}", remedy)
    return StorageError(
        f"{path}: the disk fails: {error.strerror or type(error).__name__}",
        remedy="see that the disk or mount is well, then start the same command again",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises StorageError or StorageRefused for an OSError of the block, which is about `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
