"""Which class of failure an error is."""

import pytest
import torch
from ray.exceptions import (
    NodeDiedError,
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
    UserError,
)
from jobs.state import FailureClass
from workloads.failures import Retries, classify


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


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is FailureClass.UNKNOWN


def test_a_lost_node_is_tried_again_for_ever_after_bounded_waits() -> None:
    retries = Retries()
    waits = [retries.wait_s(FailureClass.NODE_LOST) for _ in range(2000)]
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits[-1] == 60
