"""Which class of failure an error is."""

import errno

import httpx
import pytest
import torch
from ray.exceptions import (
    NodeDiedError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from jobs.errors import (
    ClusterError,
    DeadlinePassed,
    NodeLost,
    RaysmithError,
    SpecError,
    Stalled,
    StorageError,
    StorageRefused,
    UserError,
)
from jobs.spec.fields import RetrySpec
from jobs.state import FailureClass
from workloads.failures import Retries, classify, told


def _answer(status: int) -> Exception:
    request = httpx.Request("GET", "https://hub.example/model")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status))


def _caused(cause: BaseException) -> BaseException:
    error = RaysmithError("training worker 0 failed")
    error.__cause__ = cause
    return error


def _in_a_task(cause: Exception) -> BaseException:
    return RayTaskError("train", "traceback", cause)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("no such file"), FailureClass.USER_ERROR),
        (SpecError([]), FailureClass.USER_ERROR),
        (torch.OutOfMemoryError("CUDA out of memory"), FailureClass.DEVICE_OUT_OF_MEMORY),
        (MemoryError(), FailureClass.HOST_OUT_OF_MEMORY),
        (OutOfMemoryError("the node is low on memory"), FailureClass.HOST_OUT_OF_MEMORY),
        (RayActorError(), FailureClass.INFRASTRUCTURE),
        (WorkerCrashedError(), FailureClass.INFRASTRUCTURE),
        (NodeDiedError("gone"), FailureClass.NODE_LOST),
        (RayActorError(preempted=True), FailureClass.NODE_LOST),
        (NodeLost("the cluster lost 10.0.0.2"), FailureClass.NODE_LOST),
        (DeadlinePassed("too late"), FailureClass.DEADLINE),
        (RuntimeEnvSetupError("no disk"), FailureClass.INFRASTRUCTURE),
        (ConnectionResetError(), FailureClass.INFRASTRUCTURE),
        (ClusterError("Ray did not start"), FailureClass.INFRASTRUCTURE),
        (RuntimeError("[gloo] Connection closed by peer"), FailureClass.INFRASTRUCTURE),
        (RuntimeError("NCCL error: unhandled system error"), FailureClass.INFRASTRUCTURE),
        (RuntimeError("[gloo] Timed out waiting 1800000ms for recv"), FailureClass.INFRASTRUCTURE),
        (Stalled("no progress for 30m"), FailureClass.STALLED),
        (StorageError("503 SlowDown"), FailureClass.INFRASTRUCTURE),
        (StorageRefused("the credentials are expired"), FailureClass.STORAGE),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), FailureClass.STORAGE),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/runs/x"), FailureClass.STORAGE),
        (OSError(errno.EROFS, "Read-only file system", "/runs/x"), FailureClass.STORAGE),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), FailureClass.STORAGE),
        (OutOfDiskError("the local disk is full"), FailureClass.STORAGE),
        (ValueError("I/O error: No space left on device (os error 28)"), FailureClass.STORAGE),
        (FileNotFoundError(errno.ENOENT, "No such file", "/runs/x"), FailureClass.UNKNOWN),
        (_answer(403), FailureClass.USER_ERROR),
        (_answer(429), FailureClass.INFRASTRUCTURE),
        (_answer(404), FailureClass.UNKNOWN),
        (httpx.ConnectError("no route"), FailureClass.INFRASTRUCTURE),
        (RuntimeError("shapes do not match"), FailureClass.UNKNOWN),
        (ValueError("Connection closed by peer"), FailureClass.UNKNOWN),
        (KeyError("x"), FailureClass.UNKNOWN),
    ],
)
def test_the_class_is_told_from_the_error_or_its_cause(
    error: Exception, kind: FailureClass
) -> None:
    assert classify(error) is kind
    assert classify(_caused(error)) is kind
    assert classify(_in_a_task(error)) is kind
    assert classify(_caused(_in_a_task(error))) is kind


def test_the_outermost_known_error_decides() -> None:
    error = UserError("no row is left")
    error.__context__ = ConnectionResetError()
    assert classify(error) is FailureClass.USER_ERROR


def test_a_full_disk_behind_a_failure_of_infrastructure_decides() -> None:
    error = ClusterError("Ray did not start")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/tmp/ray")
    assert classify(error) is FailureClass.STORAGE
    assert told(error, FailureClass.STORAGE).startswith("no space is left: /tmp/ray\n  fix: ")
    user = UserError("no such file")
    user.__cause__ = PermissionError(errno.EACCES, "Permission denied", "/x")
    assert classify(user) is FailureClass.USER_ERROR


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is FailureClass.UNKNOWN


def test_a_lost_node_is_tried_again_for_ever_after_bounded_waits() -> None:
    retries = Retries()
    waits = [retries.wait_s(FailureClass.NODE_LOST) for _ in range(2000)]
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits[-1] == 60


def _waits(retries: Retries, *failures: FailureClass, steps: int = 0) -> list[float | None]:
    """The waits after failures with so many steps committed before each further one."""
    done = [frozenset(f"checkpoint-{s}" for s in range(n * steps)) for n in range(len(failures))]
    return [retries.wait_s(kind, before) for kind, before in zip(failures, done, strict=True)]


def test_infrastructure_is_counted_anew_where_the_stage_gets_on() -> None:
    failures = [FailureClass.INFRASTRUCTURE] * 12
    assert _waits(Retries(), *failures)[:4] == [1, 2, 4, None]
    assert _waits(Retries(), *failures, steps=1) == [1] * 12


def test_a_stall_counts_as_infrastructure() -> None:
    both = [FailureClass.STALLED, FailureClass.INFRASTRUCTURE] * 2
    assert _waits(Retries(), *both) == [1, 2, 4, None]


def test_what_is_unknown_is_tried_again_once_and_only_where_it_came_on() -> None:
    unknown = FailureClass.UNKNOWN
    assert _waits(Retries(), unknown) == [None]
    assert Retries().wait_s(unknown, frozenset({"checkpoint-3"})) == 1
    # What an earlier attempt had committed is nothing new.
    before = frozenset({"checkpoint-3"})
    assert Retries(committed=before).wait_s(unknown, before) is None
    retries = Retries()
    assert retries.wait_s(unknown, before) == 1
    assert retries.wait_s(unknown, before | {"checkpoint-6"}) is None


def test_five_failures_in_vain_end_what_loops() -> None:
    kinds = [FailureClass.INFRASTRUCTURE] * 3 + [FailureClass.HOST_OUT_OF_MEMORY]
    assert _waits(Retries(), *kinds) == [1, 2, 4, 1]
    lost = [FailureClass.NODE_LOST] * 9
    assert None not in _waits(Retries(), *kinds, *lost)
    retries = Retries()
    _waits(retries, FailureClass.HOST_OUT_OF_MEMORY, *[FailureClass.INFRASTRUCTURE] * 3)
    assert retries.wait_s(FailureClass.UNKNOWN) is None


def test_a_stage_s_own_budget_and_waits() -> None:
    infrastructure = FailureClass.INFRASTRUCTURE
    spec = RetrySpec(max_attempts=2, backoff="5s", max_backoff="7s")
    assert _waits(Retries(spec), *[infrastructure] * 2) == [5, None]
    longer = spec.model_copy(update={"max_attempts": None})
    assert _waits(Retries(longer), *[infrastructure] * 3) == [5, 7, 7]
    never = RetrySpec(max_attempts=1)
    assert Retries(never).wait_s(FailureClass.NODE_LOST) is None
