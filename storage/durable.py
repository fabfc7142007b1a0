"""Files that survive a crash: written whole or not at all, and flushed to the disk; and locks."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from jobs.errors import NotSupported

TEMP_PREFIX: Final = ".tmp-"
"""Names of unfinished files start with this; a killed writer may leave one behind."""

_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_FOLDER_FSYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a reader sees the old content or the new, never a part of it.

    The parent folder must exist. Raises OSError when the disk refuses.
    """
    with _temporary(path, data) as temp:
        temp.replace(path)
    fsync_folder(path.parent)


def create_exclusive(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless the path exists; False when it does. Atomic to readers.

    Raises:
        NotSupported: the filesystem has no hard links.
        OSError: the disk refuses for another reason.
    """
    with _temporary(path, data) as temp:
        try:
            # link() is the one call that publishes a whole file and fails on an existing name.
            path.hardlink_to(temp)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            raise NotSupported(
                f"cannot create {path} exclusively: its filesystem has no hard links",
                remedy="put the storage root on a local disk, NFS, Lustre or CephFS",
            ) from error
    fsync_folder(path.parent)
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Puts the file `source` at `target` too, which is to stay as it is, as is the source.

    No byte is copied where the filesystem has hard links. Raises OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of `path` when the block ends well.

    It is not flushed to the disk. The parent folder must exist. Raises OSError.
    """
    temp = path.with_name(f"{TEMP_PREFIX}{path.name}-{secrets.token_hex(6)}")
    try:
        with temp.open("xb") as file:
            yield file
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of the file `path`, which is made where it is missing, for the block.

    Processes that want it wait for one another. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fsync_file(path: Path) -> None:
    """Flush the content of `path` to the disk. Raises OSError."""
    _fsync(path)


def fsync_folder(path: Path) -> None:
    """Flush the entries of the folder `path`, where its filesystem knows how. Raises OSError."""
    try:
        _fsync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    temp = path.with_name(f"{TEMP_PREFIX}{path.name}-{secrets.token_hex(6)}")
    try:
        with temp.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temp
    finally:
        temp.unlink(missing_ok=True)
