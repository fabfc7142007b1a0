"""What a name, a key and a path inside a root may look like."""

import re
from pathlib import Path, PurePosixPath
from typing import Final

from jobs.errors import UserError
from storage.durable import TEMP_PREFIX

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_name(text: str) -> bool:
    """Whether `text` may name a run, a stage or an artifact."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str, what: str = "name") -> str:
    """Return `text` when it may name `what` ("stage", "run id", ...).

    Raises:
        UserError: it may not.
    """
    if not is_name(text):
        raise UserError(
            f"{text!r} is not a valid {what}",
            remedy="use 1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit first",
        )
    return text


def contained(root: Path, *parts: str) -> Path:
    """Join `parts` to `root`; the result lies inside `root` also after symlinks are followed.

    Reads the disk to follow symlinks, creates nothing, and returns the path unresolved.

    Raises:
        UserError: the path leaves `root`.
    """
    path = root.joinpath(*parts)
    climbs = any(".." in PurePosixPath(part).parts for part in parts)
    if climbs or not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{path} leads outside {root}",
            remedy="remove the '..' or the symbolic link that leads out of the storage root",
        )
    return path


def is_plain_path(text: str) -> bool:
    """Whether `text` is a relative posix path in its one normal form, with nothing to climb by."""
    return "\0" not in text and not {"", ".", ".."}.intersection(text.split("/"))


def check_key(key: str) -> str:
    """Return `key` when it may name an object in a backend: a plain path, free of backslashes.

    Raises:
        ValueError: it is not; keys are made by our code, so this is a bug and no user error.
    """
    if not is_plain_path(key) or "\\" in key:
        raise ValueError(f"{key!r} is not a storage key: it must be a plain relative posix path")
    if any(part.startswith(TEMP_PREFIX) for part in key.split("/")):
        raise ValueError(f"{key!r} is not a storage key: {TEMP_PREFIX!r} marks unfinished files")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` when it is empty or a key followed by one `/`.

    Whole segments only: a bare `runs/a` would also match `runs/ab/...` and delete it.

    Raises:
        ValueError: it is neither.
    """
    if prefix:
        if not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} is not a storage prefix: it must end in '/'")
        check_key(prefix[:-1])
    return prefix


def check_range(start: int, length: int) -> None:
    """Raises ValueError unless both are 0 or more."""
    if start < 0 or length < 0:
        raise ValueError(f"{length} bytes from {start} on is no range of an object")
