"""Ends a local Ray when its driver has died without a word.

Ray's own processes end with the driver, but for some of its agents, which go on for minutes. The
guardian waits for the driver's end of a pipe to close, which the kernel does however the driver
dies, and then ends every process that belongs to the cluster.

    python -m cluster.guardian FOLDER < pipe
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "RAYSMITH_CLUSTER"
"""The environment variable that all processes of a local cluster inherit; its folder."""

_GRACE_S = 2.0


def watch(folder: Path) -> subprocess.Popen[bytes]:
    """Starts a guardian for the cluster in `folder`; it acts when this process ends."""
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    return subprocess.Popen(
        # Found by file, so that no package of the same name in the current folder is.
        [sys.executable, "-S", "-E", __file__, str(folder)],
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def processes_of(folder: Path) -> list[int]:
    """The ids of the processes that belong to the cluster in `folder`."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if _of(process, folder)]


def _of(process: Path, folder: Path) -> bool:
    try:
        if f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        # Processes that Ray gave a title lost their environment to it; their logs are open.
        titled = (process / "cmdline").read_bytes().startswith(b"ray::")
        return titled and any(_within(file, folder) for file in (process / "fd").iterdir())
    except OSError:
        return False  # It has ended, or is another user's.


def _within(link: Path, folder: Path) -> bool:
    try:
        return str(link.readlink()).startswith(f"{folder}/")
    except OSError:
        return False


def end(folder: Path) -> None:
    """Ends the processes of the cluster in `folder` and removes it."""
    deadline = time.monotonic() + _GRACE_S
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    while left:
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
        left = processes_of(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()
    end(Path(sys.argv[1]))
