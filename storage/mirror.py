"""Copies what a run writes below a working copy to the store, and back for those who read it.

Folders of the commit protocol are left out: `storage.commit` stores those. The rest is what the
run's driver, its workers and engines write as they go: records, logs, metrics, pictures.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from typing import Final

from jobs.errors import RaysmithError
from storage.backend import Entry, MissingKey
from storage.durable import TEMP_PREFIX
from storage.manifest import MARKER_FILE, OWNER_FILE
from storage.working_copy import Place, place_of

EVERY_S: Final = 3.0
"""How often a mirror looks for changes."""

_THREADS: Final = 8
_SHARE: Final = 20
"""A file that changes all the time is stored after so many times as long as storing it took."""
_GROWING: Final = frozenset({".jsonl", ".log"})
_LEFT_OUT: Final = frozenset({"scratch", "ray_train", "stop_request", "end_request", "order"})
"""What only concerns processes that work on the run now."""

log = logging.getLogger(__name__)


@dataclass
class _Stored:
    """A file as it was stored last."""

    version: tuple[int, int]
    """Its size in bytes and its time of change in nanoseconds."""
    due_s: float
    """When it may be stored again, on the clock of `time.monotonic`."""


@dataclass
class Mirror:
    """Keeps the store up to date with a folder while a `with` block goes on; at its end whole.

    `may_write` is asked before each round. `elsewhere` are names of files in the folder that are
    stored by other means, and `requests` those of files that others leave in the store. Where the
    folder is on a disk there is nothing to do, and nothing is.
    """

    folder: Path
    may_write: Callable[[], bool] = lambda: True
    elsewhere: frozenset[str] = frozenset()
    requests: tuple[str, ...] = ()
    _stored: dict[Path, _Stored] = field(default_factory=dict)
    _ended: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> "Mirror":
        if place := place_of(self.folder):
            target = self._run
            self._thread = Thread(target=target, args=(place,), name="mirror", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
            place = place_of(self.folder)
            assert place, "there is a thread for a working copy alone"
            self._round(place, last=True)

    def _run(self, place: Place) -> None:
        while not self._ended.wait(EVERY_S):
            self._round(place, last=False)

    def _round(self, place: Place, *, last: bool) -> None:
        try:
            if self.may_write():
                for name in self.requests:
                    pull_file(self.folder / name)
                self.store(place, last=last)
        except RaysmithError as error:
            # Work goes on, and the next round tries again.
            log.warning("%s is not up to date: %s", place, error)
        except FileNotFoundError as error:
            log.debug("gone while it was read: %s", error)

    def store(self, place: Place, *, last: bool) -> None:
        """Stores what has changed; at the `last` time also what changes all the time."""
        now, found = time.monotonic(), dict(self._files())
        changed = [
            path
            for path, version in found.items()
            if (before := self._stored.get(path)) is None
            or (before.version != version and (last or now >= before.due_s))
        ]
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda path: self._store_file(place, path, found[path]), changed))
        for path in self._stored.keys() - found.keys():
            place.store.delete(self._key(place, path))
            del self._stored[path]

    def _store_file(self, place: Place, path: Path, version: tuple[int, int]) -> None:
        began = time.monotonic()
        place.store.upload(path, self._key(place, path))
        ended = time.monotonic()
        self._stored[path] = _Stored(version, ended + _SHARE * (ended - began))

    def _key(self, place: Place, path: Path) -> str:
        return place.prefix + path.relative_to(self.folder).as_posix()

    def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for folder, subfolders, names in os.walk(self.folder):
            if OWNER_FILE in names or MARKER_FILE in names:
                subfolders.clear()
                continue
            subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
            for name in names:
                path = Path(folder, name)
                beside = path.parent == self.folder and name in self.elsewhere
                if beside or name in _LEFT_OUT or name.startswith(TEMP_PREFIX):
                    continue
                try:
                    state = path.lstat()
                except FileNotFoundError:
                    continue
                if not path.is_symlink():
                    yield path, (state.st_size, state.st_mtime_ns)


def pull(folder: Path) -> None:
    """Brings what was mirrored below `folder` here; does nothing on a disk.

    What only grows is left alone where it is here with as much or more behind it, which a driver
    that died here had not stored yet.
    """
    place = place_of(folder)
    if place is None:
        return
    entries = list(place.store.list(place.prefix))
    markers = (f"/{OWNER_FILE}", f"/{MARKER_FILE}")
    committed = {PurePosixPath(e.key).parent for e in entries if e.key.endswith(markers)}
    wanted = []
    for entry in entries:
        path = folder / entry.key.removeprefix(place.prefix)
        if committed.isdisjoint(PurePosixPath(entry.key).parents):
            wanted.append((entry, path))
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda each: _bring_unless_ahead(place, *each), wanted))


def _bring_unless_ahead(place: Place, entry: Entry, path: Path) -> None:
    """Brings a file, unless it only grows and here has gone on from what is stored.

    One that another machine has gone on with since is brought, however much of it is here.
    """
    if path.suffix in _GROWING and path.is_file():
        ahead_bytes = path.stat().st_size - entry.size_bytes
        if ahead_bytes == 0 or (ahead_bytes > 0 and _goes_on_from(place, entry, path)):
            return
    _bring(place, entry.key, path)


def _goes_on_from(place: Place, entry: Entry, path: Path) -> bool:
    stored = place.store.read_bytes(entry.key)
    with path.open("rb") as file:
        return file.read(len(stored)) == stored


def pull_file(path: Path) -> None:
    """Brings one mirrored file here, or removes it where the store has none any more."""
    if place := place_of(path):
        _bring(place, place.key, path)


def remove_file(path: Path) -> None:
    """Removes a file, here and in the store."""
    path.unlink(missing_ok=True)
    if place := place_of(path):
        place.store.delete(place.key)


def push_file(path: Path) -> None:
    """Stores one file now."""
    if place := place_of(path):
        place.store.upload(path, place.key)


def _bring(place: Place, key: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.store.download(key, path)
    except MissingKey:
        path.unlink(missing_ok=True)
