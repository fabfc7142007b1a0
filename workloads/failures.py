"""Which class of failure an error is; the class decides whether a stage is tried again."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator

from jobs.errors import (
    ClusterError,
    ClusterUnfit,
    DeadlinePassed,
    GateNotMet,
    NodeLost,
    Stalled,
    StorageError,
    StorageRefused,
    UserError,
)
from jobs.spec.fields import RetrySpec, duration_s
from jobs.state import FailureClass

_MAX_IN_VAIN = 5
"""Failures in a row, of whatever class, after which a stage that commits nothing is given up."""

LOST_CONNECTION = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "Socket closed",
    "NCCL",
    "Broken pipe",
)
"""What a worker's error says when it is another worker that was lost."""

_REFUSED = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write or read",
}
_REFUSED_TEXTS = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "PytorchStreamWriter failed writing": errno.ENOSPC,
}
"""What libraries that write files themselves say of these."""

_HTTP_CLIENTS = ("requests", "httpx", "urllib3", "huggingface_hub", "aiohttp")
_MAY_MEND = frozenset({408, 425, 429, 500, 502, 503, 504})
_CANT_REACH = ("ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "Timeout",
               "ReadError", "RemoteProtocolError", "ProtocolError", "MaxRetryError")  # fmt: skip


class Retries:
    """How often a stage is tried again after failures: by their class, after longer waits."""

    def __init__(
        self, spec: RetrySpec | None = None, committed: frozenset[str] = frozenset()
    ) -> None:
        """`committed` is what the stage has committed so far."""
        self._spec = spec or RetrySpec()
        self._committed = committed
        self._failures: Counter[FailureClass] = Counter()
        self._all = 0
        self._in_vain = 0
        """Failures since something was committed."""

    def wait_s(self, kind: FailureClass, committed: frozenset[str] = frozenset()) -> float | None:
        """Counts a failure. Seconds to wait before the next try; None where there is none.

        `committed` is what the stage has committed by now. Where that is more than at the last
        failure, failures of infrastructure are counted from the beginning: a run of weeks has more
        of them than one that does not get on may have.
        """
        came_on = bool(committed - self._committed)
        self._committed |= committed
        if came_on:
            self._in_vain = 0
            del self._failures[FailureClass.INFRASTRUCTURE]
        counter = kind.counts_as
        self._failures[counter] += 1
        self._all += 1
        self._in_vain += kind is not FailureClass.NODE_LOST
        if self._failures[counter] > counter.max_retries or self._all == self._spec.max_attempts:
            return None
        if kind is FailureClass.UNKNOWN and not came_on:
            return None
        if self._in_vain >= _MAX_IN_VAIN and kind is not FailureClass.NODE_LOST:
            return None
        doublings = min(self._failures[counter] - 1, 10)
        longest = duration_s(self._spec.max_backoff)
        return min(duration_s(self._spec.backoff) * 2**doublings, longest)


def classify(error: BaseException) -> FailureClass:
    """The class of the error, told from it and its causes."""
    found = next(filter(None, map(_class_of, _causes(error))), None)
    if found in (None, FailureClass.INFRASTRUCTURE) and refusal(error):
        return FailureClass.STORAGE
    return found or FailureClass.UNKNOWN


def refusal(error: BaseException) -> StorageRefused | None:
    """The error as that of a storage that refuses, where a file could not be written or read."""
    for cause in _causes(error):
        if isinstance(cause, StorageRefused):
            return cause
        number = cause.errno if isinstance(cause, OSError) else None
        if number not in _REFUSED:
            texts = (no for text, no in _REFUSED_TEXTS.items() if text in str(cause))
            number = next(texts, None)
        if number is not None:
            name = getattr(cause, "filename", None)
            return StorageRefused(
                f"{_REFUSED[number]}: {name or cause}",
                "make room or give the right to write, or name another folder with --storage; the "
                "same command goes on from what was committed last",
            )
    return None


def told(error: BaseException, kind: FailureClass) -> str:
    """What to say of a failure: where a storage refuses, with what and what to do."""
    if kind is FailureClass.STORAGE and (refused := refusal(error)):
        return str(refused)
    return str(error) or type(error).__name__


def root(error: BaseException) -> BaseException:
    """The error itself, without Ray's wrapping."""
    while inner := _wrapped(error):
        error = inner
    return error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = _wrapped(error) or error.__cause__ or context


def _wrapped(error: BaseException) -> BaseException | None:
    """The error that Ray wrapped: what a task raised, or why a worker is not well."""
    for name in ("cause", "health_check_failure", "_base_exc"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return inner
    return None


def _class_of(error: BaseException) -> FailureClass | None:
    import ray.exceptions as ray_errors

    if isinstance(error, StorageRefused | ray_errors.OutOfDiskError):
        return FailureClass.STORAGE
    if isinstance(error, UserError | ClusterUnfit):
        return FailureClass.USER_ERROR
    if isinstance(error, Stalled):
        return FailureClass.STALLED
    if isinstance(error, GateNotMet):
        return FailureClass.GATE_NOT_MET
    if isinstance(error, DeadlinePassed):
        return FailureClass.DEADLINE
    if isinstance(error, NodeLost | ray_errors.NodeDiedError):
        return FailureClass.NODE_LOST
    if isinstance(error, ray_errors.RayActorError) and error.preempted:
        return FailureClass.NODE_LOST
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return FailureClass.DEVICE_OUT_OF_MEMORY
    if isinstance(error, ray_errors.OutOfMemoryError | MemoryError):
        return FailureClass.HOST_OUT_OF_MEMORY
    lost = (
        ray_errors.RayActorError,
        ray_errors.WorkerCrashedError,
        ray_errors.ObjectLostError,
        ray_errors.RuntimeEnvSetupError,
    )
    if isinstance(error, (*lost, ConnectionError, ClusterError, StorageError)):
        return FailureClass.INFRASTRUCTURE
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_CONNECTION):
        return FailureClass.INFRASTRUCTURE
    return _class_of_answer(error)


def _class_of_answer(error: BaseException) -> FailureClass | None:
    """The class of what a client of the web raised, such as of a model hub."""
    if type(error).__module__.partition(".")[0] not in _HTTP_CLIENTS:
        return None
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or type(error).__name__ == "GatedRepoError":
        return FailureClass.USER_ERROR
    if status in _MAY_MEND or type(error).__name__ in _CANT_REACH:
        return FailureClass.INFRASTRUCTURE
    return None
