"""Which worker's failure made the others fail."""

import pytest
from ray.exceptions import RayActorError

from workloads.train.stage import first_failure

OWN = ValueError("the loss is no number")
LOST_PEER = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4000")
RESET = RuntimeError("Connection reset by peer")
DIED = RayActorError()


@pytest.mark.parametrize(
    ("failures", "first"),
    [
        ({0: LOST_PEER, 1: OWN}, (1, OWN)),
        ({0: OWN, 1: DIED}, (1, DIED)),
        ({0: LOST_PEER, 1: DIED, 2: RESET}, (1, DIED)),
        ({2: OWN, 1: ValueError("the same"), 0: LOST_PEER}, (1, None)),
        ({3: LOST_PEER, 2: RESET}, (2, RESET)),
    ],
)
def test_collateral_failures_come_last(
    failures: dict[int, Exception], first: tuple[int, Exception | None]
) -> None:
    rank, error = first_failure(failures)
    assert rank == first[0]
    assert error is (first[1] or failures[rank])
