"""The API keys that open a service. Only their digests are kept, and no key is ever written."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.errors import UserError
from jobs.spec.fields import SECRET
from jobs.spec.serve import AuthSpec

log = logging.getLogger(__name__)

_REMEDY = 'write one line a key: `printf %s "$KEY" | sha256sum`, and a label behind it'
_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64})(?:\s+(?P<label>.*))?")


class Keys:
    """Tells keys that are valid from others, in a time that does not tell how near they are."""

    def __init__(self, key: str | None = None, file: Path | None = None) -> None:
        """`key` is valid, and those whose digests `file` lists.

        Raises:
            UserError: if the file can't be read, or holds something else.
        """
        self._fixed = (_digest(key),) if key is not None else ()
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._listed: tuple[bytes, ...] = ()
        if file:
            self._stamp, self._listed = _stamp(file), read_digests(file)

    def open_with(self, key: str) -> bool:
        """Whether a key is valid now."""
        self._reread()
        given = _digest(key)
        # All are compared, so that the time is the same whichever it is.
        matches = [hmac.compare_digest(given, known) for known in (*self._fixed, *self._listed)]
        return any(matches)

    def _reread(self) -> None:
        if self._file is None or (stamp := _stamp(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._listed = read_digests(self._file)
        except UserError as error:
            # A revoked key must not go on because of a slip in the line below it.
            self._listed = ()
            log.error("no key of the file is valid until it is mended: %s", error)


def open_keys(
    auth: AuthSpec | None, base_folders: Sequence[str], environ: Mapping[str, str]
) -> Keys | None:
    """The keys that the spec names; None where everyone may ask.

    Raises:
        UserError: if a key is not set, or the file of keys can't be read.
    """
    if auth is None:
        return None
    key = None
    if match := SECRET.match(auth.api_key or ""):
        key = environ.get(match["name"], "").strip()
        if not key:
            raise UserError(
                f"the service's key is not set: {auth.api_key}",
                f"export {match['name']}=$(openssl rand -hex 32), and run again",
            )
    file = keys_file(auth.api_keys_file, base_folders) if auth.api_keys_file else None
    return Keys(key, file)


def keys_file(path: str, base_folders: Sequence[str]) -> Path:
    """The file that a spec names, which may not be there."""
    paths = [Path(base, path).expanduser() for base in base_folders]
    # Links stay: Kubernetes turns one to a new folder when a Secret changes, and deletes the old.
    return next((each for each in paths if each.is_file()), paths[0]).absolute()


def read_digests(file: Path) -> tuple[bytes, ...]:
    """The digests that a file lists, one a line, each with a label behind it or none.

    Raises:
        UserError: if it can't be read, or a line is no digest.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the keys file {str(file)!r} can't be read: {error}", _REMEDY) from error
    digests = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if not match:
            # The line itself is not shown: it may be a key.
            raise UserError(f"{file}:{number}: this line begins with no sha256 in hex", _REMEDY)
        digests.append(bytes.fromhex(match["digest"]))
    return tuple(digests)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino
