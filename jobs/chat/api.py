"""Speaks to an OpenAI-compatible API: its models, and one streamed answer at a time."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from jobs.errors import ExitCode, RaysmithError, UserError

Message = Mapping[str, str]
"""`{"role": ..., "content": ...}`."""

_CONNECT_TIMEOUT_S = 10.0
# Between two pieces of an answer. A queue or a long prompt may keep the first one back for long.
_READ_TIMEOUT_S = 600.0
_QUOTED_CHARACTERS = 300

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Unreachable(RaysmithError):
    """Nothing answers at the address."""

    exit_code = ExitCode.CLUSTER


class AnswerLost(RaysmithError):
    """The service failed, or went away before its answer was whole."""


@dataclass(frozen=True)
class Piece:
    """What came next of an answer."""

    text: str = ""
    reasoning: str = ""
    """What the model thinks before it answers, where the service tells the two apart."""
    finish_reason: str | None = None
    """Set on the last piece."""


class ChatApi:
    """One service. Holds a connection, so close it or use it in a `with` block."""

    def __init__(
        self, url: str, key: str | None, transport: httpx.BaseTransport | None = None
    ) -> None:
        """`url` ends with the version, as in `http://127.0.0.1:8000/v1`.

        Raises:
            UserError: the key can't be sent in a header.
        """
        self.url = url
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise UserError(
                "the API key holds characters that no header can carry",
                "set it again, without spaces or line ends around it",
            )
        self._has_key = key is not None
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            # A proxy of the environment is for the world outside.
            trust_env=not is_loopback(url),
            transport=transport,
        )

    def __enter__(self) -> ChatApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> list[str] | None:
        """The names of the models that the service has; None when it does not tell.

        Raises:
            UserError: the key is refused, or no such API is there.
            Unreachable: nothing listens.
            AnswerLost: the service failed.
        """
        try:
            response = self._client.get("models")
        except httpx.TransportError as error:
            raise self._lost(error) from error
        if response.status_code in (404, 405):
            return None
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response)
        try:
            return [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._foreign() from error

    def stream(
        self, model: str, messages: Sequence[Message], sampling: Mapping[str, float]
    ) -> Generator[Piece]:
        """The model's answer, piece by piece. Closing the iterator ends the request.

        Raises:
            UserError: the key, the model or the request is refused.
            Unreachable: nothing listens.
            AnswerLost: the service failed, or the answer broke off.
        """
        request = {"model": model, "messages": list(messages), "stream": True, **sampling}
        finished = False
        try:
            with self._client.stream("POST", "chat/completions", json=request) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise self._refusal(response)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise self._foreign()
                for piece in _pieces(_events(response.iter_bytes())):
                    finished = finished or piece.finish_reason is not None
                    yield piece
        except httpx.TransportError as error:
            raise self._lost(error) from error
        if not finished:
            raise AnswerLost(f"{self.url} broke the answer off", _ASK_AGAIN)

    def _lost(self, error: httpx.TransportError) -> RaysmithError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return Unreachable(
                f"nothing answers at {self.url}: {error}",
                "check the address, and that the service runs: raysmith status",
            )
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return UserError(f"{self.url} can't be asked: {error}", "give an http or https address")
        if isinstance(error, httpx.TimeoutException):
            return AnswerLost(f"{self.url} said nothing for {_READ_TIMEOUT_S:.0f} s", _ASK_AGAIN)
        return AnswerLost(f"the connection to {self.url} was lost: {error}", _ASK_AGAIN)

    def _refusal(self, response: httpx.Response) -> RaysmithError:
        status, said = response.status_code, _quote(response)
        if status in (401, 403):
            return UserError(
                f"{self.url} refuses the API key: {said}"
                if self._has_key
                else f"{self.url} wants an API key: {said}",
                "put the key into RAYSMITH_API_KEY, or name the variable: --api-key-env NAME",
            )
        if status in (408, 429) or status >= 500:
            return AnswerLost(f"{self.url} could not answer (status {status}): {said}", _ASK_AGAIN)
        return UserError(f"{self.url} refuses the request (status {status}): {said}")

    def _foreign(self) -> UserError:
        return UserError(
            f"what answers at {self.url} is no OpenAI-compatible API",
            "give the address under which /v1/chat/completions lies",
        )


_ASK_AGAIN = "ask again; `raysmith logs` tells what happened to a service of your own"


def printable(text: str) -> str:
    """What a model or a service wrote, without the characters that a terminal obeys."""
    return _CONTROLS.sub("", text)


def is_loopback(url: str) -> bool:
    """Whether an address means this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _events(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of server-sent events: lines end at line feeds alone, not where Unicode would."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")


def _pieces(events: Iterable[str]) -> Iterator[Piece]:
    for event in events:
        if event == "[DONE]":
            return
        try:
            content: Any = json.loads(event)
            if error := content.get("error"):
                raise AnswerLost(f"the service failed: {_message(error)}", _ASK_AGAIN)
            for choice in content.get("choices") or ():
                delta = choice.get("delta") or {}
                text = delta.get("content") or ""
                reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
                yield Piece(_whole(text), _whole(reasoning), choice.get("finish_reason"))
        except (ValueError, AttributeError) as error:
            raise AnswerLost(f"the service sent no valid event: {event[:80]!r}") from error


def _quote(response: httpx.Response) -> str:
    try:
        content = response.json()
        return _message(content.get("error") or content.get("detail") or content)
    except (ValueError, AttributeError):
        return _message(response.text.strip()) or response.reason_phrase


def _message(error: Any) -> str:
    text = error.get("message", error) if isinstance(error, dict) else error
    return printable(str(text))[:_QUOTED_CHARACTERS]


def _whole(text: str) -> str:
    """The text without halves of surrogate pairs, which no encoding can write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
