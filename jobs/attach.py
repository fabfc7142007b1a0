"""Following a run that another process drives, as if this one did."""

from __future__ import annotations

from collections.abc import Callable

from jobs.errors import ExitCode, Interrupted
from jobs.observed import RunStatus, read_status
from jobs.state import FailureClass, RunState
from jobs.view.logs import print_logs
from storage.layout import RunLayout


def attach(
    layout: RunLayout,
    *,
    write: Callable[[str], None],
    follow: Callable[..., None] = print_logs,
) -> ExitCode:
    """Shows what a run at work logs until it ends; returns the exit code that its end comes to.

    Raises:
        Interrupted: at Ctrl-C, which the run takes no notice of.
    """
    status = read_status(layout)
    run = status.full_name
    where = f" by process {status.driver.pid} on {status.driver.host}" if status.driver else ""
    write(f"run {run} is driven already{where}; its logs follow, and Ctrl-C leaves it at work")
    try:
        follow(layout, follow=True, write=write)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"run {run} goes on", f"stop it with `raysmith stop {run}`; follow it with `logs -f`"
        ) from error
    ended = read_status(layout)
    lost = ended.state is RunState.RUNNING
    write(f"{run}: {'its driver is gone; the same command goes on' if lost else ended.state}")
    return outcome(ended)


def outcome(status: RunStatus) -> ExitCode:
    """The exit code of a run that is at work no more."""
    if status.state is RunState.SUCCEEDED:
        return ExitCode.OK
    if status.state is RunState.STOPPED:
        return ExitCode.INTERRUPTED
    if any(stage.reason is FailureClass.USER_ERROR for stage in status.stages):
        return ExitCode.USER_ERROR
    return ExitCode.FAILED
