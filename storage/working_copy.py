"""Storage that is no disk, as folders all the same: a working copy of it on this machine.

A run writes below the working copy, as it would below a folder. What it commits is stored first and
then marked here (`storage.remote`); what only grows is copied there now and then
(`storage.mirror`). The store alone is the truth: a working copy may be removed at any time.

The path of a working copy names its store, so that any process that is given a path below it, on
any machine, knows where the files belong:

    ~/.cache/raysmith/copies/s3%3A%2F%2Fbucket%2Fprefix/<name>/<run_id>/...
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

from jobs.errors import UserError
from storage.backend import Backend, open_backend
from storage.local import LocalBackend
from storage.uri import StorageUri, parse_uri

_QUOTED = re.compile(r"[a-z0-9]+%3A%2F%2F.+")
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Place:
    """Where something of a working copy is in the store."""

    store: Backend
    root: str
    """The URI of the store."""
    key: str
    """Empty for the root."""

    def __str__(self) -> str:
        store, mark, query = self.root.partition("?")
        return f"{store}/{self.key}".rstrip("/") + mark + query

    @property
    def prefix(self) -> str:
        """What the keys of the objects below it begin with."""
        return f"{self.key}/" if self.key else ""


def copy_of(uri: StorageUri) -> Path:
    """The folder of a store's working copy on this machine.

    Raises:
        UserError: if the URI is too long for the name of a folder.
    """
    cached = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = quote(str(uri), safe="")
    if len(name) > _LONGEST_NAME:
        raise UserError(f"the storage {uri} has too long a name", "choose a shorter prefix")
    return Path(cached).absolute() / "raysmith" / "copies" / name


def root_of(text: str) -> Path:
    """The folder of a storage root: itself where it is on a disk, else its working copy.

    Raises:
        UserError: the text is no storage root that lasts.
    """
    uri = parse_uri(text)
    if uri.scheme == "memory":
        raise UserError(f"the storage root {text!r} does not last", "give a folder: ./runs")
    return uri.local_path or copy_of(uri)


def here(path: Path) -> Path:
    """The same path below this machine's working copy, where it is below that of any machine."""
    for index, part in enumerate(path.parts):
        if _QUOTED.fullmatch(part):
            return copy_of(parse_uri(unquote(part))).joinpath(*path.parts[index + 1 :])
    return path


def place_of(path: Path) -> Place | None:
    """Where `path` is in the store; None where it is not below a working copy."""
    parts = path.parts
    for index, part in enumerate(parts):
        if _QUOTED.fullmatch(part):
            uri = unquote(part)
            return Place(opened(uri), uri, "/".join(parts[index + 1 :]))
    return None


def store_of(root: Path) -> Backend:
    """The store of a storage root: of its working copy, else the disk itself."""
    place = place_of(root)
    return place.store if place else LocalBackend(root)


@cache
def opened(uri: str) -> Backend:
    """The store of a URI; one for all of this process, which keeps its connections."""
    return open_backend(parse_uri(uri))
