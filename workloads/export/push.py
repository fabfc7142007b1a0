"""Uploads a committed folder to where others get it from."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from jobs.errors import RaysmithError, UserError
from jobs.spec.export import PushSpec
from jobs.spec.fields import SECRET
from storage.committed import read_committed
from storage.manifest import Manifest


class Pushed(Protocol):
    """Uploads a folder's committed files: what is there already and equal is not sent again.

    Raises UserError where the destination refuses, ConnectionError where it can't be reached.
    """

    def __call__(
        self, folder: Path, manifest: Manifest, spec: PushSpec, message: str, /
    ) -> dict[str, Any]:
        """Returns `url`, the numbers of files `sent`, `replaced` and `unchanged`, and more."""


DESTINATIONS = {
    "hf": "workloads.export.hugging_face:push",
    "ms": "workloads.export.model_scope:push",
    "s3": "workloads.export.s3:push",
}


def push(folder: Path, spec: PushSpec, message: str) -> dict[str, Any]:
    """Uploads a committed folder as the spec says.

    Raises:
        UserError: if the destination refuses: credentials, names, permissions.
        ConnectionError: if it can't be reached, or fails.
    """
    manifest = read_committed(folder)
    if manifest is None:
        raise RaysmithError(f"{folder} is not committed, so it can't be pushed")
    module, _, name = DESTINATIONS[spec.scheme].partition(":")
    return getattr(import_module(module), name)(folder, manifest, spec, message)


def token_of(spec: PushSpec) -> str | None:
    """The hub's token, from this process's environment; None where the spec names none.

    Raises:
        UserError: if the variable is not set.
    """
    found = SECRET.match(spec.token or "")
    if not found:
        return None
    if not os.environ.get(found["name"]):
        raise UserError(
            f"{found['name']}, the token to push to {spec.to} with, is not set on the worker",
            f"export {found['name']} before the run",
        )
    return os.environ[found["name"]]
