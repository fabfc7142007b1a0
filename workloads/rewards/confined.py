"""The process that runs a model's program: gives up what it can, then runs it.

Started by `sandbox.py`, by its path and with nothing of ours to import. It reads what to run from
`job.json` in the current folder: `program`, `tests` (statements, or null to run the program alone),
`token`, `seconds`, `memory_bytes` and `parent`, the process that started it. It writes a line to
the file descriptor in its argument for each test that passes: the token and the test's number.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_FILE_BYTES = 16 * 2**20
_OPEN_FILES = 64
_FOLDER_SIZE = b"size=64m,mode=700"

_LIBC = ctypes.CDLL(None, use_errno=True)
_NAMESPACES = 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000  # user, mount, network, IPC
_MOUNT_SETATTR, _LANDLOCK = 442, 444
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FORBIDDEN = {
    # socket, fork, vfork, ptrace, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, process_vm_writev,
    # pidfd_send_signal, io_uring_setup
    "x86_64": (41, 57, 58, 101, 200, 129, 297, 311, 424, 425),
    "aarch64": (198, 117, 130, 138, 240, 271, 424, 425),
}
_SIGNAL_CALLS = {"x86_64": (62, 234), "aarch64": (129, 131)}
"""kill and tgkill, which a process may use on itself."""
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_CLONE_THREAD = 0x00010000

_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in what a filter sees of a system call."""


def main() -> None:
    """Reads the job, gives up what it can, and runs the program."""
    job = json.loads(Path("job.json").read_text())
    Path("job.json").unlink()
    report = int(sys.argv[1])
    _enter_namespaces()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job["parent"]:
        return
    _limit(job["seconds"], job["memory_bytes"])
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _forbid_writing()
    if not _filter_system_calls():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    _run(job["program"], job["tests"], job.get("token", ""), report)


def _enter_namespaces() -> None:
    """Leaves network, IPC and writable files behind, as far as the kernel allows."""
    user, group, folder = os.getuid(), os.getgid(), Path.cwd()
    if _LIBC.unshare(_NAMESPACES):
        return
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return
    # A struct mount_attr that says read-only, for all mounts (AT_RECURSIVE).
    attributes = struct.pack("QQQQ", 1, 0, 0, 0)
    _LIBC.syscall(_MOUNT_SETATTR, -100, b"/", 0x8000, attributes, len(attributes))
    _LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 2 | 4, _FOLDER_SIZE)
    os.chdir(folder)
    # A mount could be changed back by whoever has the namespace's capabilities.
    if number := _CAPSET.get(platform.machine()):
        header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
        _LIBC.syscall(number, header, nothing)


def _limit(seconds: float, memory_bytes: int) -> None:
    processor = math.ceil(seconds)
    for kind, limit in (
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _forbid_writing() -> None:
    """Has Landlock, where the kernel does, keep to this folder what is written or removed.

    It keeps other processes' memory and environment from being read, too.
    """
    version = _LIBC.syscall(_LANDLOCK, None, 0, 1)
    if version < 1:
        return
    # To write a file; to make or remove any kind of it; to move it elsewhere; to cut it off.
    rights = 0x1FF2 | (0x2000 if version > 1 else 0) | (0x4000 if version > 2 else 0)
    rules = _LIBC.syscall(_LANDLOCK, struct.pack("Q", rights), 8, 0)
    for path, allowed in ((".", rights), ("/dev/null", 0x2)):
        beneath = struct.pack("=Qi", allowed, os.open(path, os.O_PATH))
        _LIBC.syscall(_LANDLOCK + 1, rules, 1, beneath, 0)
    _LIBC.syscall(_LANDLOCK + 2, rules, 0)


def _filter_system_calls() -> bool:
    """Forbids new processes, signals to others, and sockets. Returns whether that worked."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # x86-64's other set of numbers
        (_RETURN, 0, 0, _EPERM),
    ]
    for number in _FORBIDDEN[machine]:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    # Without clone3, whose flags a filter can't see, threads are made by clone.
    steps += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS)]
    for number in _SIGNAL_CALLS[machine]:
        steps += _unless(number, (_EQUAL, os.getpid()))
    steps += _unless(_CLONE[machine], (_ANY_BIT, _CLONE_THREAD))
    steps.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    return not _LIBC.prctl(_PR_SET_SECCOMP, 2, program, 0, 0)


def _unless(number: int, test: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Forbids a system call unless its first argument passes a test."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (test[0], 0, 1, test[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]


def _run(program: str, tests: list[str] | None, token: str, report: int) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__" if tests is None else "program"}
    exec(compile(program, "program.py", "exec"), namespace)  # noqa: S102 - this is the sandbox
    for number, test in enumerate(tests or ()):
        try:
            exec(compile(test, "test.py", "exec"), namespace)  # noqa: S102 - as above
        except BaseException:  # noqa: BLE001 - whatever it raises, it did not pass
            continue
        os.write(report, f"{token} {number}\n".encode())


if __name__ == "__main__":
    main()
