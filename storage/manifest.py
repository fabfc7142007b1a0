"""The values of the commit protocol, and the JSON they are kept as.

`_OWNER.json` says who may write a folder; `_COMMITTED.json`, written last, says what is in it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias, TypeVar

from storage.names import is_plain_path

JSON: TypeAlias = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None

OWNER_FILE: Final = "_OWNER.json"
MARKER_FILE: Final = "_COMMITTED.json"
FORMAT_VERSION: Final = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Owner:
    """The writer of a folder: one attempt at one stage of one run."""

    run_id: str
    stage: str
    key: str
    """The stage's cache key."""
    attempt: int
    """Counted from 1; a higher attempt fences a lower one out."""

    def same_stage(self, other: "Owner") -> bool:
        """Whether both are attempts at the same stage of the same run."""
        return (self.run_id, self.stage) == (other.run_id, other.stage)

    def __str__(self) -> str:
        return f"attempt {self.attempt} of stage {self.stage} in run {self.run_id}"


@dataclass(frozen=True)
class FileEntry:
    """One file of a committed folder."""

    name: str
    """Posix path relative to the folder."""
    size_bytes: int
    sha256: str
    """Hexadecimal digest of the content."""


@dataclass(frozen=True)
class Manifest:
    """What a committed folder holds."""

    owner: Owner
    files: tuple[FileEntry, ...]
    """Ordered by name."""
    meta: Mapping[str, JSON]
    """What the writer says about the content: step, world size, type, ..."""

    @property
    def size_bytes(self) -> int:
        """The sum of the sizes of the files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 over the names and contents: equal content, equal digest."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(f"{file.sha256} {file.name}\0".encode(errors="surrogateescape"))
        return total.hexdigest()


def owner_to_json(owner: Owner) -> bytes:
    """The content of `_OWNER.json`."""
    return _dump({"format": FORMAT_VERSION, **asdict(owner)})


def owner_from_json(data: bytes) -> Owner:
    """Read `_OWNER.json`. Raises ValueError that says what is wrong with it."""
    return _owner(_load(data))


def manifest_to_json(manifest: Manifest) -> bytes:
    """The content of `_COMMITTED.json`. Raises ValueError when `meta` holds NaN or infinity."""
    return _dump({"format": FORMAT_VERSION, **asdict(manifest)})


def manifest_from_json(data: bytes) -> Manifest:
    """Read `_COMMITTED.json`; unknown keys are let pass. Raises ValueError that says what is wrong.

    The names in the manifest are safe to join to the folder.
    """
    tree = _load(data)
    files = tuple(_file(item) for item in _get(tree, "files", list))
    return Manifest(_owner(_get(tree, "owner", dict)), files, _get(tree, "meta", dict))


def normal_meta(meta: Mapping[str, JSON]) -> dict[str, JSON]:
    """`meta` as it will be read back. Raises ValueError or TypeError when JSON cannot hold it."""
    tree: dict[str, JSON] = json.loads(json.dumps(dict(meta), allow_nan=False))
    return tree


def _owner(tree: dict[str, Any]) -> Owner:
    return Owner(
        run_id=_get(tree, "run_id", str),
        stage=_get(tree, "stage", str),
        key=_get(tree, "key", str),
        attempt=_get(tree, "attempt", int),
    )


def _file(item: object) -> FileEntry:
    if not isinstance(item, dict):
        raise ValueError("an entry of 'files' is not an object")
    name = _get(item, "name", str)
    if not is_plain_path(name):
        raise ValueError(f"{name!r} is not a path inside the folder")
    return FileEntry(
        name=name,
        size_bytes=_get(item, "size_bytes", int),
        sha256=_get(item, "sha256", str),
    )


def _dump(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _load(data: bytes) -> dict[str, Any]:
    tree = json.loads(data)
    if not isinstance(tree, dict):
        raise ValueError("it is not a JSON object")
    version = _get(tree, "format", int)
    if version > FORMAT_VERSION:
        raise ValueError(f"it has format {version}, and this raysmith reads up to {FORMAT_VERSION}")
    return tree


def _get(tree: dict[str, Any], key: str, kind: type[T]) -> T:
    value = tree.get(key)
    if not isinstance(value, kind):
        raise ValueError(f"{key!r} is missing or not of type {kind.__name__}")
    return value
