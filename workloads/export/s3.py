"""Uploads to S3 and to what speaks its protocol.

Credentials, region and endpoint come from the usual variables (`AWS_ACCESS_KEY_ID`,
`AWS_ENDPOINT_URL` and so on) or the machine's role. Each object carries its digest, by which a push
that is done again knows what is there. The commit marker is sent last: a prefix that has it is
complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.spec.export import PushSpec
from storage.manifest import MARKER_FILE, Manifest
from storage.s3_calls import make_client

_ATTEMPTS = 5
_DIGEST = "sha256"
_PART_BYTES = 16 * 2**20
_REFUSED = (400, 401, 403, 404)


def push(folder: Path, manifest: Manifest, spec: PushSpec, _message: str) -> dict[str, Any]:
    """Uploads the folder's files under the prefix; large ones in parts, several at a time.

    Raises:
        UserError: if S3 refuses, or the prefix holds files of something else.
        ConnectionError: if it can't be reached, or fails.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

    client = make_client(attempts=_ATTEMPTS)
    try:
        return _upload(client, folder, manifest, spec)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status in _REFUSED:
            raise UserError(
                f"S3 refused to take {spec.to}: {error}",
                "check the bucket's name and region, and that the credentials may write there",
            ) from error
        raise ConnectionError(f"pushing to {spec.to} failed: {error}") from error
    except (NoCredentialsError, NoRegionError) as error:
        raise UserError(
            f"nothing to push to {spec.to} with: {error}",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION) for the workers",
        ) from error
    except (BotoCoreError, OSError) as error:
        raise ConnectionError(f"pushing to {spec.to} failed: {error}") from error


def _upload(client: Any, folder: Path, manifest: Manifest, spec: PushSpec) -> dict[str, Any]:
    from boto3.s3.transfer import TransferConfig

    digests = {file.name: file.sha256 for file in manifest.files}
    there = _names(client, spec)
    if foreign := sorted(there - set(digests) - {MARKER_FILE}):
        raise UserError(
            f"{spec.to} holds {len(foreign)} other files, such as {foreign[0]}",
            "choose an empty prefix, or delete what is there",
        )
    transfer = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)
    sent = replaced = 0
    for name, digest in digests.items():
        key = _key(spec, name)
        if name in there:
            if _digest(client, spec.bucket, key) == digest:
                continue
            # Until all files are new, the prefix must not look complete.
            client.delete_object(Bucket=spec.bucket, Key=_key(spec, MARKER_FILE))
            replaced += 1
        extra = {"Metadata": {_DIGEST: digest}}
        with (folder / name).open("rb") as file:
            client.upload_fileobj(file, spec.bucket, key, ExtraArgs=extra, Config=transfer)
        sent += 1
    marker = (folder / MARKER_FILE).read_bytes()
    client.put_object(Bucket=spec.bucket, Key=_key(spec, MARKER_FILE), Body=marker)
    unchanged = len(digests) - sent
    return {"url": spec.to, "sent": sent, "replaced": replaced, "unchanged": unchanged}


def _key(spec: PushSpec, name: str) -> str:
    return f"{spec.prefix}/{name}" if spec.prefix else name


def _names(client: Any, spec: PushSpec) -> set[str]:
    """The names of all objects under the prefix."""
    prefix = f"{spec.prefix}/" if spec.prefix else ""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=spec.bucket, Prefix=prefix)
    return {
        entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ())
    }


def _digest(client: Any, bucket: str, key: str) -> str | None:
    return client.head_object(Bucket=bucket, Key=key)["Metadata"].get(_DIGEST)
