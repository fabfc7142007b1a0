"""Tells a webhook what becomes of a run, without ever holding it up for long."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from threading import Thread
from typing import Any, Protocol

from jobs.errors import UserError
from jobs.masking import Mask
from jobs.observed import RunStatus
from jobs.spec.fields import SECRET
from jobs.spec.notify import NotifySpec, Occasion

_TRIES = 3
_TRY_S = 4.0
_BACKOFF_S = 1.0
_PATIENCE_S = 15.0
"""How long the end of a run may be held up by what is still to be sent."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_MOST_TEXT = 1000

Event = Callable[..., None]


class Tell(Protocol):
    """Tells whoever wants to know of what happened to a run."""

    def __call__(self, occasion: Occasion, status: RunStatus, stage: str | None = None) -> None:
        """Says what the status says, of a stage where one is named. Does not wait."""


def webhook_variable(spec: NotifySpec) -> str:
    """The environment variable that holds the webhook's address."""
    match = SECRET.match(spec.webhook)
    assert match, "the spec is valid"
    return match["name"]


def webhook_address(spec: NotifySpec, environ: Mapping[str, str]) -> str:
    """The address to post to.

    Raises:
        UserError: if the environment has none.
    """
    name = webhook_variable(spec)
    address = environ.get(name, "").strip()
    if not address.startswith(("http://", "https://")):
        what = "holds no http(s) address" if address else "is not set"
        raise UserError(
            f"notify.webhook: the environment variable {name} {what}",
            f"export {name}=https://... where the run is driven, or leave notify out",
        )
    return address


def tell_nobody(occasion: Occasion, status: RunStatus, stage: str | None = None) -> None:
    """Where nobody wants to know."""


@dataclass(frozen=True)
class Message:
    """What is posted."""

    run: str
    name: str
    state: str
    stage: str | None
    reason: str | None
    message: str | None

    @property
    def text(self) -> str:
        """All of it in a line or two."""
        head = f"{self.name}/{self.run} {self.state}"
        parts = (f"stage {self.stage}" if self.stage else None, self.reason, self.message)
        return ": ".join(part for part in (head, *parts) if part)

    def to_json(self) -> bytes:
        """As it is posted."""
        return json.dumps({**self.__dict__, "text": self.text}, ensure_ascii=False).encode()


def message_of(occasion: Occasion, status: RunStatus, stage: str | None, mask: Mask) -> Message:
    """What to say of a run: of the stage that is named, else of the first that failed."""
    failed = (s for s in status.stages if s.state.value == "failed")
    about = status.stage(stage) if stage else next(failed, None)
    text = about.message if about else status.message
    if text:
        text = _ADDRESS.sub("(address)", mask(text))[:_MOST_TEXT]
    return Message(
        run=status.run_id,
        name=status.name,
        state=occasion,
        stage=about.name if about else None,
        reason=about.reason.value if about and about.reason else None,
        message=text,
    )


class Webhook:
    """Posts messages in the background, each in a thread of its own."""

    def __init__(
        self,
        address: str,
        on: tuple[Occasion, ...],
        mask: Mask,
        event: Event,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`event` records what came of it."""
        self._address, self._on, self._mask = address, on, mask
        self._event, self._sleep = event, sleep
        self._threads: list[Thread] = []

    def tell(self, occasion: Occasion, status: RunStatus, stage: str | None = None) -> None:
        """See `Tell`."""
        if occasion not in self._on:
            return
        body = message_of(occasion, status, stage, self._mask).to_json()
        thread = Thread(target=self._send, args=(occasion, body), name="notify", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Waits until everything is sent, but not for long."""
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _send(self, occasion: Occasion, body: bytes) -> None:
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(_BACKOFF_S * 2 ** (attempt - 1))
            try:
                status = _post(self._address, body)
            except (OSError, HTTPException, ValueError) as error:
                # Their texts may name the address, which is a secret.
                problem = _named(error)
            else:
                self._event("notified", occasion=occasion, status=status)
                return
        self._event("notify_failed", occasion=occasion, reason=problem, tries=_TRIES)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows none: what is posted is meant for the address alone."""


def _post(address: str, body: bytes) -> int:
    headers = {"Content-Type": "application/json", "User-Agent": "raysmith"}
    request = urllib.request.Request(address, body, headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(request, timeout=_TRY_S) as answer:
        return int(answer.status)


def _named(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        return type(error.reason).__name__
    return type(error).__name__
