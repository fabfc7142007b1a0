"""The storage root as a user writes it (`--storage`), parsed into a value."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from jobs.errors import UserError
from jobs.masking import HIDDEN, SECRET_SHAPES
from storage import BACKENDS
from storage.names import check_name, is_plain_path

# One slash is enough to be taken for a scheme: `s3:/bucket` is a slip, not a folder "s3:".
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/.*)", re.DOTALL)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_HOST: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]+")
_ADDRESSING: Final = ("path", "virtual")
_SETTINGS: Final = ("endpoint", "region", "addressing")
_CREDENTIALS: Final = "credentials come from the environment or ~/.aws, never from the address"


@dataclass(frozen=True)
class StorageUri:
    """Where a storage root lies; made by `parse_uri`."""

    scheme: str
    """A key of `storage.BACKENDS`."""

    path: str
    """An absolute path for `file`, a name for `memory`, `bucket` or `bucket/prefix` for `s3`."""

    endpoint: str | None = None
    """Of `s3`: the address of the service; None leaves it to the usual variables."""

    region: str | None = None
    """Of `s3`; None leaves it to the usual variables."""

    addressing: str | None = None
    """Of `s3`: `path` or `virtual`, where the bucket stands in a request's address."""

    @property
    def local_path(self) -> Path | None:
        """The root as a folder, None when it is not on a local or mounted disk."""
        return Path(self.path) if self.scheme == "file" else None

    def __str__(self) -> str:
        path = quote(self.path) if self.scheme == "file" else self.path
        settings = [(name, value) for name in _SETTINGS if (value := getattr(self, name))]
        query = f"?{urlencode(settings, safe='/:')}" if settings else ""
        return f"{self.scheme}://{path}{query}"


def parse_uri(text: str) -> StorageUri:
    """Parse `./runs`, `~/runs`, `/abs`, `file:///abs`, `memory://name` or `s3://bucket/prefix`.

    A relative path is resolved against the working directory; an absolute one is kept as written,
    since nodes may reach the same mount through different links. An S3 root may be followed by
    `?endpoint=URL&region=R&addressing=path|virtual`, each of which may be left out.

    Raises:
        UserError: empty, malformed, or of a scheme without a backend. It repeats no credentials.
    """
    if not text.strip() or "\0" in text:
        raise UserError(
            f"the storage root {text!r} is empty or holds a NUL", remedy="give a folder: ./runs"
        )
    match = _SCHEME.fullmatch(text)
    if match is None:
        return StorageUri("file", str(_absolute(text)))
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme == "file":
        return StorageUri("file", _file_path(text, rest))
    if scheme == "memory":
        return StorageUri("memory", check_name(rest.lstrip("/"), "memory store"))
    if scheme == "s3":
        return _s3_uri(rest)
    raise UserError(
        f"storage {_shown(text)}: there is no backend for '{scheme}://'; "
        f"supported are {', '.join(f'{known}://' for known in sorted(BACKENDS))} and plain paths",
        remedy="give a local folder, or the path where the bucket is mounted on every node",
    )


def _absolute(text: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"storage {_shown(text)}: the home folder is not known", remedy="write the path in full"
        ) from error
    return path if path.is_absolute() else path.resolve()


def _file_path(text: str, rest: str) -> str:
    path = rest
    if rest.startswith("//"):
        host, slash, tail = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise UserError(
                f"storage {_shown(text)} names a host or a relative path",
                remedy="a file URI has three slashes: file:///absolute/path",
            )
        path = slash + tail
    return unquote(path)


def _s3_uri(rest: str) -> StorageUri:
    location, _, query = rest.partition("?")
    bucket, _, prefix = location.removeprefix("//").partition("/")
    if not location.startswith("//"):
        _refuse("has one slash where two belong")
    if "@" in bucket or ":" in bucket:
        _refuse(
            "holds credentials or a port, which do not belong there",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile by AWS_PROFILE; "
            "a port belongs into ?endpoint=",
        )
    if not _BUCKET.fullmatch(bucket):
        _refuse("names no bucket: 3 to 63 of letters, digits, '.', '_' and '-'")
    prefix = prefix.removesuffix("/")
    if prefix and (not is_plain_path(prefix) or "\\" in prefix):
        _refuse("has a prefix that is no plain path")
    settings = _s3_settings(query)
    return StorageUri("s3", f"{bucket}/{prefix}" if prefix else bucket, **settings)


def _s3_settings(query: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _SETTINGS:
            # What stands there may be a secret, also as a name.
            shown = repr(name) if re.fullmatch(r"[a-z_-]{1,32}", name) else "that is not shown here"
            _refuse(f"has a setting {shown}; there are {', '.join(_SETTINGS)}", _CREDENTIALS)
        if name in settings:
            _refuse(f"has the setting {name!r} twice")
        settings[name] = value
    if "endpoint" in settings:
        settings["endpoint"] = _endpoint(settings["endpoint"])
    if "region" in settings and not _REGION.fullmatch(settings["region"]):
        _refuse("has a region that is none", "write it like region=eu-central-1")
    if "addressing" in settings and settings["addressing"] not in _ADDRESSING:
        _refuse(f"has an addressing other than {' and '.join(_ADDRESSING)}")
    return settings


def _endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        whole = (
            parts.scheme in ("http", "https")
            and _HOST.fullmatch(parts.netloc)
            and not (parts.query or parts.fragment)
        )
        _ = parts.port
    except ValueError:
        whole = False
    if not whole:
        _refuse(
            "has an endpoint that is no plain address",
            "write it like endpoint=https://minio.example:9000, without credentials",
        )
    return text.rstrip("/")


def _refuse(why: str, remedy: str = "write it like s3://bucket/prefix") -> NoReturn:
    raise UserError(f"the s3:// storage root {why}", remedy)


def _shown(text: str) -> str:
    """The root for a message, without what may be a secret."""
    return repr(SECRET_SHAPES.sub(HIDDEN, text.partition("?")[0]))
