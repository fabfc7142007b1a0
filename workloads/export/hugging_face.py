"""Uploads to the Hugging Face hub.

The hub keeps large files by their digest, so what arrived before a broken connection is not sent
again, and a folder that is there already makes no new commit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.spec.export import PushSpec
from storage.manifest import Manifest
from workloads.export.push import token_of

_REFUSED = (400, 401, 403, 404, 409, 422)


def push(folder: Path, manifest: Manifest, spec: PushSpec, message: str) -> dict[str, Any]:
    """Makes the repository if need be, and commits the folder's files to it.

    Raises:
        UserError: if the hub refuses.
        ConnectionError: if it can't be reached, or fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token_of(spec))
    try:
        api.create_repo(spec.repository, private=spec.private, exist_ok=True)
        if spec.revision:
            api.create_branch(spec.repository, branch=spec.revision, exist_ok=True)
        before = _files(api, spec)
        info = api.upload_folder(
            repo_id=spec.repository,
            folder_path=folder,
            allow_patterns=[file.name for file in manifest.files],
            revision=spec.revision,
            commit_message=message,
        )
        after = _files(api, spec)
    except HFValidationError as error:
        raise UserError(f"the hub takes no repository {spec.repository!r}: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _REFUSED:
            raise UserError(
                f"the hub refused to take {spec.to} (HTTP {status}): {error}",
                "check the name, and that the token may write there",
            ) from error
        raise ConnectionError(f"pushing to {spec.to} failed: {error}") from error
    except OSError as error:
        raise ConnectionError(f"pushing to {spec.to} failed: {error}") from error
    sent = [name for name, digest in after.items() if before.get(name) != digest]
    return {
        "url": str(info.commit_url).split("/commit/")[0],
        "commit": info.oid,
        "sent": len(sent),
        "replaced": len(set(sent) & set(before)),
        "unchanged": len(manifest.files) - len(sent),
    }


def _files(api: Any, spec: PushSpec) -> dict[str, str]:
    """The repository's files by name, each with the digest of its content."""
    info = api.repo_info(spec.repository, revision=spec.revision, files_metadata=True)
    return {file.rfilename: file.blob_id for file in info.siblings or ()}
