"""Runs a program that a model wrote, in a process that can do little.

What holds everywhere: a Python process of its own, in a session of its own, with an empty
environment and an empty folder, which is removed afterwards; limits on time, processor time,
memory, the size of a file, and open files. At the deadline its whole process group is killed. Its
process ends with the one that scores, too; where that one is killed, the folder stays behind, with
what the program wrote unless those files were a namespace's own (below).

What holds on x86-64 and 64-bit ARM: no other process can be started, signalled or traced, and no
socket opened. What holds where the kernel has Landlock: files can be written and removed in the
program's folder alone, and other processes' memory and environment can't be read. Where it lets
unprivileged processes have namespaces, the same holds by other means, the program's files take
64 MiB at most, and there is no network interface.

What does not hold: files that this process may read, the program may read. Where the kernel has
neither Landlock nor such namespaces, it may write what this process may write: run such jobs as a
user, or in a container, that has nothing to lose. And a program that searches its own process's
memory can report tests as passed that it never ran.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("confined.py")
_OUTPUT_BYTES = 2**20


@dataclass(frozen=True)
class Limits:
    """What a program may take."""

    deadline: float
    """Of `time.monotonic`: when it is killed."""
    memory_bytes: int


@dataclass(frozen=True)
class _Finished:
    exit_code: int | None
    """None where it was killed at the deadline."""
    output: str
    report: str


def passed_tests(program: str, tests: Sequence[str], limits: Limits) -> int:
    """How many tests pass, of statements that are run in turn in the namespace of a program."""
    # Without the token, a program that prints or ends early can't pass for one that went through.
    token = secrets.token_hex(16)
    finished = _run({"program": program, "tests": list(tests), "token": token}, "", limits)
    lines = finished.report.splitlines()
    return sum(f"{token} {number}" in lines for number in range(len(tests)))


def printed_by(program: str, text: str, limits: Limits) -> str | None:
    """What a program prints that gets `text` on its standard input; None if it does not end well.

    Of a longer output, the first MiB.
    """
    finished = _run({"program": program, "tests": None}, text, limits)
    return finished.output if finished.exit_code == 0 else None


def _run(job: dict[str, Any], text: str, limits: Limits) -> _Finished:
    seconds = limits.deadline - time.monotonic()
    if seconds <= 0:
        return _Finished(None, "", "")
    with (
        tempfile.TemporaryDirectory(prefix="raysmith-code-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as report,
    ):
        stdin.write(text.encode("utf-8", "replace"))
        stdin.seek(0)
        job |= {"memory_bytes": limits.memory_bytes, "seconds": seconds, "parent": os.getpid()}
        Path(folder, "job.json").write_text(json.dumps(job))
        process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", str(_CHILD), str(report.fileno())],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            pass_fds=(report.fileno(),),
            start_new_session=True,
        )
        exit_code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                exit_code = process.wait(seconds)
        finally:
            _end(process)
        return _Finished(exit_code, *(_text(file.fileno()) for file in (output, report)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the process's group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _text(file: int) -> str:
    return os.pread(file, _OUTPUT_BYTES, 0).decode("utf-8", "replace")
