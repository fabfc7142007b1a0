"""What S3's errors, and those of the way to it, mean: try again, or tell a person what to do.

Nothing that is said here holds a secret: no credentials, no signed address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from jobs.errors import NotSupported, RaysmithError, StorageError, StorageRefused
from jobs.masking import HIDDEN, SECRET_SHAPES

CONDITION_NOT_MET: Final = frozenset({"PreconditionFailed", "412"})
BEYOND_END: Final = frozenset({"InvalidRange", "416"})

_TRANSIENT: Final = frozenset({
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException",
    "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "OperationAborted", "BadDigest",
    "ConditionalRequestConflict", "IncompleteBody", "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
})  # fmt: skip
_LATER: Final = "see that the storage is well, then start the same command again"
_CHECK: Final = "check the endpoint, the bucket and the credentials"
_KEYS: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give a role"
_RENEW: Final = "log in again or renew the credentials, then start the same command again"
_CLOCK: Final = "set the clock of this machine: run ntpd or chronyd"
_BUCKET: Final = "create the bucket, or check its name, the endpoint and the region"
_ROOM: Final = "free some room or have the quota raised, then start the same command again"

_REFUSALS: Final[dict[str, tuple[str, str]]] = {
    "InvalidAccessKeyId": ("it does not know the access key", _KEYS),
    "InvalidToken": ("the session token is not valid", _RENEW),
    "ExpiredToken": ("the credentials have expired", _RENEW),
    "ExpiredTokenException": ("the credentials have expired", _RENEW),
    "TokenRefreshRequired": ("the credentials have expired", _RENEW),
    "SignatureDoesNotMatch": (
        "the secret key does not belong to the access key, or a proxy changed the request",
        "check AWS_SECRET_ACCESS_KEY, and that the endpoint's name is the one the service knows",
    ),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", _CLOCK),
    "NoSuchBucket": ("there is no such bucket", _BUCKET),
    "PermanentRedirect": ("the bucket is in another region", "name it: ?region=... or AWS_REGION"),
    "AuthorizationHeaderMalformed": (
        "the request was signed for another region", "name it: ?region=... or AWS_REGION",
    ),
    "IllegalLocationConstraintException": (
        "the bucket is in another region", "name it: ?region=... or AWS_REGION",
    ),
    "QuotaExceeded": ("the quota is used up", _ROOM),
    "XMinioStorageFull": ("its disks are full", _ROOM),
    "XMinioAdminBucketQuotaExceeded": ("the bucket's quota is used up", _ROOM),
    "InsufficientStorage": ("it has no room left", _ROOM),
    "MethodNotAllowed": ("it is read-only", "choose storage that may be written"),
    "AccountProblem": ("there is a problem with the account", "ask who runs the account"),
    "InvalidBucketName": ("the bucket's name is not valid", _BUCKET),
}  # fmt: skip
_PERMISSIONS: Final = {
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "HeadObject": "s3:GetObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
_CREDENTIAL_ERRORS: Final = {
    "NoCredentialsError": ("there are no credentials", _KEYS),
    "PartialCredentialsError": ("the credentials are incomplete", _KEYS),
    "ProfileNotFound": ("~/.aws knows no such profile", "check AWS_PROFILE"),
    "NoRegionError": ("no region is set", "name it: ?region=... or AWS_REGION"),
    "TokenRetrievalError": ("the login has expired", _RENEW),
    "SSOTokenLoadError": ("there is no login", _RENEW),
    "UnauthorizedSSOTokenError": ("the login has expired", _RENEW),
    "SSOError": ("the login is not valid", _RENEW),
    "CredentialRetrievalError": ("the credentials could not be fetched", _RENEW),
    "InvalidConfigError": ("~/.aws/config is not valid", "mend it"),
    "ConfigParseError": ("~/.aws/config is not valid", "mend it"),
    "ParamValidationError": ("the request is not valid", "check the name of the bucket"),
    "InvalidEndpointConfigurationError": ("the endpoint is not valid", "check the address"),
}
UNREACHABLE: Final = frozenset({
    "EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError",
    "NewConnectionError", "ConnectionRefusedError", "gaierror",
})  # fmt: skip
"""Names of errors that say that no connection could be made."""


class Trouble(NamedTuple):
    """What an error of the library means."""

    error: RaysmithError
    """What to raise for it, now or when there is no more trying."""
    transient: bool
    """Whether it may be gone at the next try."""
    unreachable: bool = False
    """Whether nobody answered at all."""
    unclear: bool = False
    """Whether the answer lacks what would say why, which is rarely gone at the next try."""


def code_of(error: Exception) -> str:
    """S3's word for what is wrong, empty for an error that is not an answer of S3."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def understand(error: Exception, operation: str, place: str) -> Trouble:
    """What the error means that `operation` (`PutObject`) met at `place` (`s3://bucket/key`)."""
    response: Mapping[str, Any] | None = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:
        return _answered(response, operation, place)
    name = type(error).__name__
    if name in _CREDENTIAL_ERRORS:
        what, remedy = _CREDENTIAL_ERRORS[name]
        return Trouble(StorageRefused(f"{place}: {what}", remedy), transient=False)
    unreachable = name in UNREACHABLE
    what = "cannot be reached" if unreachable else "the connection broke"
    said = clean(str(error)).partition("\n")[0]
    return Trouble(
        StorageError(
            f"{place}: {operation}: {what}: {name}: {said}",
            "check the endpoint and the network" if unreachable else _LATER,
        ),
        transient=True,
        unreachable=unreachable,
    )


def clean(text: str) -> str:
    """The text without what follows a `?` in an address, and without known kinds of secret."""
    return SECRET_SHAPES.sub(HIDDEN, re.sub(r"\?[^\s'\"]*", "?...", text))


def _answered(response: Mapping[str, Any], operation: str, place: str) -> Trouble:
    error = response["Error"]
    code = str(error.get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _REFUSALS:
        what, remedy = _REFUSALS[code]
        if code == "RequestTimeTooSkewed":
            what += _skew(response)
        return Trouble(StorageRefused(f"{place}: {what} ({code})", remedy), transient=False)
    if code in ("AccessDenied", "AllAccessDisabled"):
        permission = _PERMISSIONS.get(operation, operation)
        return Trouble(
            StorageRefused(
                f"{place}: access denied: these credentials may not {operation}",
                f"give them the permission {permission} there (and those of the key, if encrypted)",
            ),
            transient=False,
        )
    if status == 501 or code == "NotImplemented":
        return Trouble(
            NotSupported(
                f"{place}: the storage does not know {operation} as it was asked for ({code})",
                "use storage that has conditional writes; `raysmith doctor` tells",
            ),
            transient=False,
        )
    said = f"{place}: {operation}: the storage answers {status or ''} {code}".rstrip()
    if message := clean(str(error.get("Message", "")))[:200]:
        said += f": {message}"
    if code in _TRANSIENT or status >= 500 or status == 429:
        return Trouble(StorageError(said, _LATER), transient=True)
    if code.isdigit():
        # The library puts the status where the body said nothing, or was lost on the way.
        return Trouble(StorageRefused(f"{said}, and not why", _CHECK), transient=True, unclear=True)
    return Trouble(StorageRefused(said, _CHECK), transient=False)


def _skew(response: Mapping[str, Any]) -> str:
    """By how much the clock is off, as far as the answer tells."""
    there = _server_time(response)
    if there is None:
        return ""
    ahead_s = (datetime.now(UTC) - there).total_seconds()
    return f": it is {abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'} of the storage's"


def _server_time(response: Mapping[str, Any]) -> datetime | None:
    try:
        if told := response["Error"].get("ServerTime"):
            return datetime.fromisoformat(str(told)).astimezone(UTC)
        return parsedate_to_datetime(
            response["ResponseMetadata"]["HTTPHeaders"]["date"]
        ).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None
