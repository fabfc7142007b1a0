"""Errors that a person can act on, and the exit code that each one ends the program with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The program's exit codes. They are part of the interface: scripts depend on them."""

    OK = 0
    """Every stage ended well."""
    FAILED = 1
    """A stage failed for a reason that is not the user's input."""
    USER_ERROR = 2
    """The spec, the data, the model or the arguments are wrong. Retrying will not help."""
    CLUSTER = 3
    """No cluster could be started or reached, or no service answers."""
    INTERRUPTED = 130
    """Stopped on request; the same command goes on from the last committed checkpoint."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the user's input, and what to do about it."""

    message: str
    remedy: str | None = None
    path: str = ""
    """Dotted path into the spec, such as `stages.sft.training.learning_rate`."""
    file: str | None = None
    line: int | None = None
    """1-based line in `file`."""
    column: int | None = None
    """1-based column in `file`."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        head = ": ".join(part for part in (place, self.path, self.message) if part)
        return f"{head}\n  fix: {self.remedy}" if self.remedy else head


class RaysmithError(Exception):
    """Base of every error that raysmith raises on purpose."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.remedy}" if self.remedy else self.message


class UserError(RaysmithError):
    """The input is wrong: the spec, a dataset, a model or an argument."""

    exit_code = ExitCode.USER_ERROR


class SpecError(UserError):
    """Everything that is wrong with a job's input, found in one pass."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(
            sorted(problems, key=lambda p: (p.file or "", p.line or 0, p.column or 0))
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return SpecError, (self.problems,)


class ClusterError(RaysmithError):
    """The cluster could not be started or reached, or cannot hold the job."""

    exit_code = ExitCode.CLUSTER


class ClusterUnfit(ClusterError):
    """The cluster can't hold the job or must not run it, however often it is tried."""


class NodeLost(ClusterError):
    """A machine that the job used went away."""


class StorageError(RaysmithError):
    """The storage does not answer, or not as it should; it may be well again later."""


class StorageRefused(UserError):
    """The storage refuses, and will until somebody changes something: no use in trying again."""


class NotSupported(StorageRefused):
    """The storage lacks an ability, such as conditional writes."""


class Stalled(RaysmithError):
    """Nothing got on for as long as a stage allows."""


class DeadlinePassed(RaysmithError):
    """The run took as long as its profile allows."""


class GateNotMet(RaysmithError):
    """A model was measured, and is not as good as the job demands."""


class Interrupted(RaysmithError):
    """The user asked to stop, and the work is safe."""

    exit_code = ExitCode.INTERRUPTED
