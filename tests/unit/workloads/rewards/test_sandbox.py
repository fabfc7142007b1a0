"""What a model's program can't do."""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from workloads.rewards.sandbox import Limits, passed_tests, printed_by

ATTEMPT = "try:\n    {}\n    print('done')\nexcept OSError as error:\n    print('refused')\n"


def limits(seconds: float = 10, mebibytes: int = 512) -> Limits:
    return Limits(time.monotonic() + seconds, mebibytes * 2**20)


def attempt(statement: str) -> str:
    """What comes of a statement: `done` or `refused`."""
    printed = printed_by(ATTEMPT.format(statement), "", limits())
    return str(printed).strip()


def test_a_program_reads_and_prints() -> None:
    program = "name = input()\nprint('héllo', name)\nprint(__name__)"
    assert printed_by(program, "wörld\n", limits()) == "héllo wörld\n__main__\n"


def test_a_program_that_fails_has_printed_nothing() -> None:
    assert printed_by("print(1); 1 / 0", "", limits()) is None
    assert printed_by("print(1); import sys; sys.exit(2)", "", limits()) is None
    assert printed_by("print(1", "", limits()) is None


def test_tests_are_counted_one_by_one() -> None:
    tests = ["assert two() == 2", "assert two() == 3", "print(undefined)", "two()"]
    assert passed_tests("def two(): return 2", tests, limits()) == 2


def test_a_program_can_not_report_without_the_token() -> None:
    program = """
import os
for file in range(3, 20):
    try:
        os.write(file, b"x 0\\n 0\\n0\\n")
    except OSError:
        pass
"""
    assert passed_tests(program, ["assert False"], limits()) == 0


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)", "input()"])
def test_it_ends_at_its_deadline(program: str) -> None:
    began = time.monotonic()
    assert printed_by(program, "", limits(0.5)) is None
    assert time.monotonic() - began < 3


def test_nothing_is_started_after_the_deadline() -> None:
    assert printed_by("print(1)", "", limits(-1)) is None


def test_its_environment_and_folder_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    program = "import os; print('HF_TOKEN' in os.environ, len(os.environ) < 3, os.listdir('.'))"
    assert printed_by(program, "", limits()) == "False True []\n"


def test_its_folder_is_gone_afterwards() -> None:
    printed = printed_by("import os; open('a', 'w').write('b'); print(os.getcwd())", "", limits())
    assert printed is not None
    folder = Path(printed.strip())
    assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()


def test_memory_is_limited() -> None:
    assert printed_by("x = bytearray(300 * 2**20); print(1)", "", limits(mebibytes=256)) is None
    assert printed_by("x = bytearray(100 * 2**20); print(1)", "", limits(mebibytes=256)) == "1\n"


def test_files_are_limited_in_size_and_number() -> None:
    assert attempt("open('a', 'wb').write(bytes(20 * 2**20))") == "refused"
    assert attempt("open('a', 'wb').write(bytes(10 * 2**20))") == "done"
    assert attempt("files = [open('/dev/null') for _ in range(100)]") == "refused"


def test_what_it_prints_is_limited() -> None:
    printed = printed_by("print('x' * 10 * 2**20)", "", limits())
    assert printed is not None
    assert len(printed) == 2**20
    assert printed_by("while True: print('x' * 10**6)", "", limits()) is None


@pytest.mark.parametrize(
    "statement",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.kill(-1, 0)",
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
    ],
)
def test_it_starts_signals_and_reaches_nothing(statement: str) -> None:
    assert attempt(statement) == "refused"


def test_a_fork_bomb_is_no_bomb() -> None:
    began = time.monotonic()
    program = "import os\nwhile True:\n  try: os.fork()\n  except OSError: print(1); break"
    assert printed_by(program, "", limits()) == "1\n"
    assert time.monotonic() - began < 5


def test_threads_and_event_loops_work() -> None:
    program = """
import asyncio, threading
async def main(): print(1)
asyncio.run(main())
thread = threading.Thread(target=print, args=(2,))
thread.start(); thread.join()
"""
    assert printed_by(program, "", limits()) == "1\n2\n"


def _has_landlock() -> bool:
    version: int = ctypes.CDLL(None).syscall(444, None, 0, 1)
    return version > 0


@pytest.mark.skipif(not _has_landlock(), reason="this kernel has no Landlock")
def test_files_elsewhere_are_not_written_or_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "kept").chmod(0o666)
    tmp_path.chmod(0o777)
    for statement in (
        f"open('{tmp_path}/new', 'w')",
        f"open('{tmp_path}/kept', 'a')",
        f"import os; os.remove('{tmp_path}/kept')",
        f"import os; os.truncate('{tmp_path}/kept', 0)",
        "open('/dev/shm/raysmith-test', 'w')",
        "import os; open(f'/proc/{os.getppid()}/environ').read()",
    ):
        assert attempt(statement) == "refused", statement
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]
    assert attempt("import os; open('a', 'w').write('b'); os.mkdir('c'); os.remove('a')") == "done"
    assert attempt("open('/dev/null', 'w').write('b')") == "done"


def _has_namespaces() -> bool:
    program = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10020000) != 0)"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(not _has_namespaces(), reason="this kernel gives no namespaces")
def test_a_network_and_files_of_its_own() -> None:
    network = "import os; print(os.readlink('/proc/self/ns/net'))"
    assert printed_by(network, "", limits()) != f"{Path('/proc/self/ns/net').readlink()}\n"
    files = "[open(f'{i}', 'wb').write(bytes(10 * 2**20)) for i in range({})]"
    assert attempt(files.replace("{}", "5")) == "done"
    assert attempt(files.replace("{}", "7")) == "refused"
    rights = "print(*(line for line in open('/proc/self/status') if line.startswith('CapEff')))"
    assert printed_by(rights, "", limits()) == f"CapEff:\t{0:016x}\n\n"


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import time\n"
        "from workloads.rewards.sandbox import Limits, printed_by\n"
        "printed_by('import time; time.sleep(60)', '', Limits(time.monotonic() + 60, 2**29))\n"
    )
    # The folder of the program outlives a process that is killed.
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    parent = psutil.Popen([sys.executable, "-c", starter], env=environment)
    while not (children := parent.children()):
        time.sleep(0.02)
    time.sleep(0.2)  # for it to say what its end shall be
    parent.kill()
    parent.wait()
    assert ended(children[0])


def ended(process: psutil.Process) -> bool:
    """Whether a process ends within seconds; it counts as ended where no one reaps it."""
    for _ in range(100):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
