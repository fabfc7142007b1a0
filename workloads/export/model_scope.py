"""Uploads to ModelScope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.spec.export import PushSpec
from storage.manifest import Manifest
from workloads.export.push import token_of


def push(folder: Path, manifest: Manifest, spec: PushSpec, message: str) -> dict[str, Any]:
    """Makes the repository if need be, and commits the folder's files to it.

    ModelScope does not say which files it had already: all count as sent.

    Raises:
        UserError: if ModelScope refuses.
        ConnectionError: if it can't be reached, or fails.
    """
    from modelscope_hub.api import HubApi
    from modelscope_hub.errors import (
        AlreadyExistsError,
        AuthenticationError,
        HubError,
        InvalidParameter,
        NotExistError,
        PermissionDeniedError,
    )

    api = HubApi(token=token_of(spec))
    try:
        try:
            visibility = "private" if spec.private else "public"
            api.create_repo(spec.repository, "model", visibility=visibility)
        except AlreadyExistsError:
            pass  # it is written to as it is
        api.upload_folder(
            spec.repository,
            "model",
            folder,
            commit_message=message,
            revision=spec.revision,
            allow_patterns=[file.name for file in manifest.files],
            disable_tqdm=True,
        )
    except (AuthenticationError, PermissionDeniedError, NotExistError, InvalidParameter) as error:
        raise UserError(
            f"ModelScope refused to take {spec.to}: {error}",
            "check the name, and that the token may write there",
        ) from error
    except (HubError, OSError) as error:
        raise ConnectionError(f"pushing to {spec.to} failed: {error}") from error
    return {"url": spec.to, "sent": len(manifest.files), "replaced": 0, "unchanged": 0}
