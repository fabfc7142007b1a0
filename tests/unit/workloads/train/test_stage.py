"""Which worker's failure made the others fail."""

import errno
import pickle
import time
from typing import Any

import pytest
import torch
from ray.exceptions import RayActorError

from workloads.train.stage import _timed, first_failure

OWN = ValueError("the loss is no number")
LOST_PEER = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4000")
RESET = RuntimeError("Connection reset by peer")
DIED = RayActorError()
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")
FULL = OSError(errno.ENOSPC, "No space left on device", "/runs")


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: LOST_PEER, 1: OWN}, (1, OWN)),
        ({0: OWN, 1: DIED}, (1, DIED)),
        ({0: LOST_PEER, 1: DIED, 2: RESET}, (1, DIED)),
        ({2: OWN, 1: ValueError("the same"), 0: LOST_PEER}, (1, None)),
        ({3: LOST_PEER, 2: RESET}, (2, RESET)),
        # NCCL ends the processes of the others.
        ({0: DIED, 1: LOST_PEER, 2: OUT_OF_MEMORY}, (2, OUT_OF_MEMORY)),
        ({0: DIED, 1: FULL}, (1, FULL)),
    ],
)
def test_collateral_failures_come_last(
    failures: dict[int, Exception], first: tuple[int, Exception | None]
) -> None:
    rank, error = first_failure(failures)
    assert rank == first[0]
    assert error is (first[1] or failures[rank])


def test_of_several_errors_the_first_in_time_counts() -> None:
    def fails(config: dict[str, Any]) -> None:
        raise config["error"]

    late, early = ValueError("late"), ValueError("early")
    for error in (early, late):
        with pytest.raises(ValueError, match="a"):
            _timed(fails, {"error": error})
        time.sleep(0.001)
    # As they travel to the driver.
    rank, first = first_failure({0: _travelled(late), 1: _travelled(early)})
    assert (rank, str(first)) == (1, "early")


def _travelled(error: Exception) -> Exception:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    wrapped = UserExceptionWithTraceback(error, "traceback")
    loaded: Exception = pickle.loads(pickle.dumps(wrapped))  # noqa: S301 - our own bytes
    return loaded
