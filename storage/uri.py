"""The storage root as a user writes it (`--storage`), parsed into a value."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from jobs.errors import UserError
from storage import BACKENDS
from storage.names import check_name

# One slash is enough to be taken for a scheme: `s3:/bucket` is a slip, not a folder "s3:".
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/.*)", re.DOTALL)


@dataclass(frozen=True)
class StorageUri:
    """Where a storage root lies; made by `parse_uri`."""

    scheme: str
    """A key of `storage.BACKENDS`."""

    path: str
    """An absolute path for `file`, a name for `memory`."""

    @property
    def local_path(self) -> Path | None:
        """The root as a folder, None when it is not on a local or mounted disk."""
        return Path(self.path) if self.scheme == "file" else None

    def __str__(self) -> str:
        path = quote(self.path) if self.scheme == "file" else self.path
        return f"{self.scheme}://{path}"


def parse_uri(text: str) -> StorageUri:
    """Parse `./runs`, `~/runs`, `/abs`, `file:///abs` or `memory://name`.

    A relative path is resolved against the working directory; an absolute one is kept as written,
    since nodes may reach the same mount through different links.

    Raises:
        UserError: empty, malformed, or of a scheme without a backend.
    """
    if not text.strip() or "\0" in text:
        raise UserError(
            f"the storage root {text!r} is empty or holds a NUL", remedy="give a folder: ./runs"
        )
    match = _SCHEME.fullmatch(text)
    if match is None:
        return StorageUri("file", str(_absolute(text)))
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "file":
        return StorageUri("file", _file_path(text, rest))
    if scheme == "memory":
        return StorageUri("memory", check_name(rest.lstrip("/"), "memory store"))
    raise UserError(
        f"storage {text!r}: there is no backend for '{scheme}://'; "
        f"supported are {', '.join(f'{known}://' for known in sorted(BACKENDS))} and plain paths",
        remedy="give a local folder, or the path where the bucket is mounted on every node",
    )


def local_root(text: str) -> Path:
    """The folder that a storage root names.

    Raises:
        UserError: the text is no storage root, or one that is not on a disk.
    """
    path = parse_uri(text).local_path
    if path is None:
        raise UserError(f"the storage root {text!r} is not on a disk", "give a folder: ./runs")
    return path


def _absolute(text: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"storage {text!r}: the home folder is not known", remedy="write the path in full"
        ) from error
    return path if path.is_absolute() else path.resolve()


def _file_path(text: str, rest: str) -> str:
    path = rest
    if rest.startswith("//"):
        host, slash, tail = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError(
                f"storage {text!r} names a host or a relative path",
                remedy="a file URI has three slashes: file:///absolute/path",
            )
        path = slash + tail
    return unquote(path)
