"""Requests to S3: how a client is made, and how long a request that fails is tried again.

The library's own retries are off, since they miss what happens while a body is read, and two
layers of retries would multiply. What is tried again here: connections that break or are refused,
answers of 5xx and 429, throttling, and bodies that end early or do not match their checksum.
A body that ends early is found by its length, which the library does not look at.
"""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.errors import RaysmithError, UserError
from storage.s3_errors import understand

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60


@dataclass(frozen=True)
class Patience:
    """How long a request is tried again."""

    budget_s: float = 120.0
    """Seconds from the first failure in a row to the last try."""

    brief_s: float = 10.0
    """The same where it hardly helps: nobody ever reached the service, or it says no, not why."""

    first_pause_s: float = 0.1
    """The longest first pause; each later one may be twice as long, and its length is random."""

    longest_pause_s: float = 8.0


def make_client(
    endpoint: str | None = None,
    region: str | None = None,
    addressing: str | None = None,
    connections: int = 10,
    attempts: int = 1,
) -> Any:
    """A client of S3; what is None comes from the usual variables.

    It makes so many attempts at a request by itself; one, where `Calls` makes more.

    Raises:
        UserError: boto3 is not installed, or the settings make no sense to it.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise UserError(
            "s3:// needs boto3, which is not installed", "pip install 'raysmith[train]'"
        ) from error
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=connections,
        s3={"addressing_style": addressing} if addressing else None,
    )
    try:
        # A session of its own reads the environment as it is now.
        client = boto3.Session().client(
            "s3", endpoint_url=endpoint, region_name=region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise understand(error, "Connect", "s3://").error from error
    client.meta.events.register("after-call.s3", _refuse_cut_answer)
    if client.meta.config.request_checksum_calculation == "when_required":
        client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
    return client


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """For services that know no CRC32, which the library sends with this request regardless."""
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()


def _refuse_cut_answer(http_response: Any, model: Any, **_: Any) -> None:
    """Raises IncompleteReadError for an answer whose body ended before its time.

    The library does not look, and takes a listing without a body for one of an empty bucket.
    """
    from botocore.exceptions import IncompleteReadError

    streams = model.has_streaming_output and http_response.status_code < 300
    promised = http_response.headers.get("Content-Length", "")
    if streams or model.http.get("method") == "HEAD" or not promised.isdigit():
        return
    if len(http_response.content) != int(promised):
        raise IncompleteReadError(
            actual_bytes=len(http_response.content), expected_bytes=int(promised)
        )


class Calls:
    """Makes requests, again and again where that may help. For many threads at once."""

    def __init__(self, patience: Patience) -> None:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        self._patience = patience
        self._errors = (BotoCoreError, ClientError, HTTPError, OSError)
        self._answered = False

    def __call__(self, operation: str, place: str, attempt: Callable[[bool], T]) -> T:
        """The result of `attempt`, tried until it ends well or there is no hope.

        It gets whether an earlier try may have taken effect although its answer was lost. An
        OSError in it is taken for one of the network.

        Raises:
            StorageError, StorageRefused: see `understand`.
        """
        failures = Failures(self._patience)
        unsure = False
        while True:
            try:
                result = attempt(unsure)
            except self._errors as error:
                trouble = understand(error, operation, place)
                if not trouble.transient:
                    raise trouble.error from error
                brief = trouble.unclear or (trouble.unreachable and not self._answered)
                pause_s = failures.pause_s(brief=brief)
                if pause_s is None:
                    raise failures.gave_up(trouble.error) from error
                unsure = True
                time.sleep(pause_s)
            else:
                self._answered = True
                return result


class Failures:
    """Failures in a row of one thing that is being tried."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._started: float | None = None
        self._count = 0

    def pause_s(self, *, brief: bool = False) -> float | None:
        """Counts a failure. Seconds to wait before the next try; None where there is none."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
        patience = self._patience
        longest = patience.first_pause_s * 2 ** min(self._count, 20)
        self._count += 1
        pause_s = random.uniform(0, min(longest, patience.longest_pause_s))
        budget_s = min(patience.budget_s, patience.brief_s) if brief else patience.budget_s
        return pause_s if now + pause_s - self._started < budget_s else None

    def gave_up(self, error: RaysmithError) -> RaysmithError:
        """The error to raise when there is no next try."""
        waited_s = time.monotonic() - (self._started or time.monotonic())
        tries = "once" if self._count == 1 else f"{self._count} times in {waited_s:.0f} s"
        return type(error)(f"{error.message} (tried {tries})", error.remedy)
