"""Which class of failure an error is; the class decides whether a stage is tried again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from jobs.errors import (
    ClusterError,
    ClusterUnfit,
    DeadlinePassed,
    GateNotMet,
    NodeLost,
    UserError,
)
from jobs.state import FailureClass

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 60.0

LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
"""What a worker's error says when it is another worker that was lost."""


class Retries:
    """How often something is tried again after failures: by their class, after longer waits."""

    def __init__(self) -> None:
        self._failures: Counter[FailureClass] = Counter()

    def wait_s(self, kind: FailureClass) -> float | None:
        """Counts a failure. Seconds to wait before the next try; None where there is none."""
        self._failures[kind] += 1
        if self._failures[kind] > kind.max_retries:
            return None
        doublings = min(self._failures[kind] - 1, 10)
        return min(_FIRST_BACKOFF_S * 2**doublings, _LONGEST_BACKOFF_S)


def classify(error: BaseException) -> FailureClass:
    """The class of the error, told from it and its causes."""
    for cause in _causes(error):
        if found := _class_of(cause):
            return found
    return FailureClass.UNKNOWN


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

    if isinstance(error, UserError | ClusterUnfit):
        return FailureClass.USER_ERROR
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
    if isinstance(error, (*lost, ConnectionError, ClusterError)):
        return FailureClass.INFRASTRUCTURE
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_CONNECTION):
        return FailureClass.INFRASTRUCTURE
    return None
