"""States of runs and stages, and the classes of failure that decide retries."""

from __future__ import annotations

from enum import StrEnum
from math import inf


class StageState(StrEnum):
    """Where a stage stands. Only the controller moves it."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    CACHED = "cached"
    """Not run: an earlier run of the same name holds the artifact of the same key."""
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"
    """Not run, since a stage before it failed or was stopped."""

    @property
    def has_artifact(self) -> bool:
        """Whether the stages after this one can start."""
        return self in (StageState.SUCCEEDED, StageState.CACHED)

    @property
    def is_final(self) -> bool:
        """Whether this attempt at the run will not move the stage any more."""
        return self not in (StageState.PENDING, StageState.RUNNING, StageState.RETRYING)


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


class FailureClass(StrEnum):
    """Why a stage failed. It alone decides whether the stage is tried again."""

    USER_ERROR = "user_error"
    DEVICE_OUT_OF_MEMORY = "device_out_of_memory"
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    INFRASTRUCTURE = "infrastructure"
    STALLED = "stalled"
    """Nothing got on for as long as the stage allows."""
    STORAGE = "storage"
    """The storage is full, read-only, or refuses the credentials."""
    NODE_LOST = "node_lost"
    """A machine went away, or was taken."""
    DEADLINE = "deadline"
    """The run took as long as it may."""
    GATE_NOT_MET = "gate_not_met"
    """Nothing broke: the model is not as good as the job demands."""
    UNKNOWN = "unknown"

    @property
    def max_retries(self) -> float:
        """How many times a stage is tried again after failures of this class; `inf` for always."""
        return _MAX_RETRIES[self]

    @property
    def counts_as(self) -> FailureClass:
        """The class whose retries a failure of this one uses up."""
        return FailureClass.INFRASTRUCTURE if self is FailureClass.STALLED else self


_MAX_RETRIES = {
    FailureClass.USER_ERROR: 0,
    FailureClass.DEVICE_OUT_OF_MEMORY: 0,
    FailureClass.HOST_OUT_OF_MEMORY: 1,
    FailureClass.INFRASTRUCTURE: 3,
    FailureClass.STALLED: 3,
    FailureClass.STORAGE: 0,
    FailureClass.NODE_LOST: inf,
    FailureClass.DEADLINE: 0,
    FailureClass.GATE_NOT_MET: 0,
    # Only where it has come on since the last failure, see `workloads.failures.Retries`.
    FailureClass.UNKNOWN: 1,
}

_START = frozenset({StageState.PENDING, StageState.RUNNING})

_NEXT: dict[StageState, frozenset[StageState]] = {
    StageState.PENDING: _START
    | {StageState.CACHED, StageState.SKIPPED, StageState.STOPPED, StageState.FAILED},
    # A driver that was killed leaves stages running or retrying; the next one starts them anew.
    StageState.RUNNING: _START
    | {StageState.RETRYING, StageState.SUCCEEDED, StageState.FAILED, StageState.STOPPED},
    StageState.RETRYING: _START | {StageState.FAILED, StageState.STOPPED},
    StageState.FAILED: _START,
    StageState.STOPPED: _START,
    StageState.SKIPPED: _START,
    # Only where the artifact has been removed or damaged since.
    StageState.SUCCEEDED: frozenset({StageState.PENDING}),
    StageState.CACHED: frozenset({StageState.PENDING}),
}


def allowed(old: StageState, new: StageState) -> bool:
    """Whether a stage may move from `old` to `new`, also when a run is taken up again."""
    return new in _NEXT[old]
