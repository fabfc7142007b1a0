"""The base of every spec class, and the types that several of them share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""Names become folder names, in every storage: lower case, no separators."""

REFERENCE = re.compile(r"^\$\{stages\.(?P<stage>[^.{}]+)\.(?P<output>[^.{}]+)\}$")
"""`${stages.X.model}`: the one way to name another stage's artifact."""

SECRET = re.compile(r"^\$\{secret:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}$")
"""`${secret:X}`: resolved from the worker's environment, never recorded."""


class Spec(BaseModel):
    """A part of the job file: frozen, and with no room for keys that nobody reads."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


Artifact = Literal["adapter", "model", "dataset", "export", "report", "service"]
"""What a stage leaves for others."""


@dataclass(frozen=True)
class Input:
    """A value of a stage that may name another stage's artifact."""

    value: str
    accepts: tuple[Artifact, ...]
    """What it may be."""


def _check_secret(value: str) -> str:
    if not SECRET.match(value):
        raise ValueError(
            "must be a reference such as ${secret:HF_TOKEN}: the value itself is never written "
            "into a spec, since specs are recorded"
        )
    return value


SecretReference = Annotated[
    str,
    AfterValidator(_check_secret),
    Field(pattern=SECRET.pattern, examples=["${secret:HF_TOKEN}"]),
]
"""The name of an environment variable on the workers, written `${secret:NAME}`."""

_BYTES_PER_UNIT = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTE_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*$", re.IGNORECASE)


def size_bytes(text: str) -> int:
    """The number of bytes that a size such as `5GB` or `500 MB` stands for (decimal units).

    Raises:
        ValueError: if the text is no size, or is zero.
    """
    match = _BYTE_SIZE.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 5GB or 500MB")
    size = int(float(match[1]) * _BYTES_PER_UNIT[match[2].upper()])
    if size < 1:
        raise ValueError(f"{text!r} must be more than zero bytes")
    return size


def _check_size(text: str) -> str:
    size_bytes(text)
    return text


ByteSize = Annotated[str, AfterValidator(_check_size), Field(examples=["5GB", "500MB"])]
"""A size in words; `size_bytes` reads it."""

_SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhd])\s*$")


def duration_s(text: str) -> float:
    """The number of seconds that a duration such as `90m` or `24h` stands for.

    Raises:
        ValueError: if the text is no duration, or is zero.
    """
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 90m, 24h")
    seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2]]
    if not seconds:
        raise ValueError(f"{text!r} must be longer than nothing")
    return seconds


def _check_duration(text: str) -> str:
    duration_s(text)
    return text


Duration = Annotated[str, AfterValidator(_check_duration), Field(examples=["90m", "24h"])]
"""A duration in words, of seconds, minutes, hours or days; `duration_s` reads it."""


class RetrySpec(Spec):
    """How often a stage is tried again after failures that may mend themselves.

    Their class decides whether they do: a lost machine always, infrastructure three times in a row
    without a newly committed step, a worker out of memory once, a mistake in the spec never.
    """

    max_attempts: PositiveInt | None = None
    """The most attempts of the stage in one run of the command, whatever failed. When absent, the
    classes of failure alone decide."""
    backoff: Duration = "1s"
    """The wait before the second attempt; it doubles with each further failure of a class."""
    max_backoff: Duration = "60s"
    """The longest wait between two attempts."""


class StageSpec(Spec):
    """What all kinds of stage have in common. Each kind adds `kind: Literal[...]`."""

    after: tuple[str, ...] = ()
    """Stages that must end well before this one starts, where no artifact says so already."""
    retry: RetrySpec = RetrySpec()
    """How often it is tried again."""
    stall_timeout: Duration = "30m"
    """How long a stage may show no progress before its workers are ended and it is tried again. Up
    to its first step it may take twice as long, and ten minutes at least."""

    @property
    def produces(self) -> Artifact:
        """What the stage leaves for others."""
        raise NotImplementedError

    @property
    def takes(self) -> dict[str, Input]:
        """What may be another stage's artifact, by field, such as `rewards[0].model`."""
        raise NotImplementedError

    @property
    def processes_at_once(self) -> int:
        """Processes that compute at the same time."""
        return 1

    @property
    def cpus_per_process(self) -> int | None:
        """CPU cores of each of them, where the spec says it."""
        return None


ModelReference = Annotated[
    str,
    Field(
        min_length=1,
        examples=[
            "smollm2-135m-instruct",
            "Qwen/Qwen2.5-7B-Instruct@a09a354",
            "${stages.sft.model}",
        ],
    ),
]
"""A bundled name, a folder, a hub id with an optional `@revision`, or another stage's model."""
