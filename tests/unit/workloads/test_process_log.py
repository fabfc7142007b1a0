"""Where what is logged goes while a stage works."""

import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from storage.layout import AttemptLayout
from workloads.process_log import log_file


def test_what_is_logged_in_the_block_is_in_the_attempts_log(tmp_path: Path) -> None:
    attempt, root, log = AttemptLayout(tmp_path), logging.getLogger(), logging.getLogger("a.part")
    before = root.level, list(root.handlers)
    log.warning("before")
    with suppress(ValueError), log_file(attempt):
        log.info("training 你好")
        log.debug("too much")
        raise ValueError
    log.warning("after")
    with log_file(attempt):
        log.error("again")
    lines = attempt.driver_log.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO a.part: training 你好", "ERROR a.part: again",
    ]  # fmt: skip
    assert (root.level, root.handlers) == before


def test_secrets_are_masked_in_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "opensesame")
    attempt = AttemptLayout(tmp_path)
    with log_file(attempt):
        try:
            raise ValueError("opensesame is refused")
        except ValueError:
            logging.getLogger("a.part").exception("it failed with opensesame")
    text = attempt.driver_log.read_text()
    assert "opensesame" not in text
    assert "*** is refused" in text


def test_secrets_are_masked_in_what_a_process_prints(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from workloads.process_log import print_to
print_to(Path(sys.argv[1]))
print("the key is", os.environ["MY_API_KEY"])
sys.stdout.flush()
os.system("echo from a child")
raise ValueError("refused: " + os.environ["MY_API_KEY"])
"""
    log = tmp_path / "worker.log"
    subprocess.run(
        [sys.executable, "-c", code, str(log)],
        check=False,
        env={**os.environ, "MY_API_KEY": "opensesame"},
    )
    text = log.read_text()
    assert "the key is ***" in text
    assert "from a child" in text
    assert "ValueError: refused: ***" in text
    assert "opensesame" not in text


def test_threads_at_work_at_once_have_a_log_each(tmp_path: Path) -> None:
    root, meeting = logging.getLogger(), threading.Barrier(3, timeout=30)
    before = root.level
    attempts = [AttemptLayout(tmp_path / name) for name in ("one", "two")]

    def work(attempt: AttemptLayout) -> None:
        attempt.folder.mkdir()
        with log_file(attempt):
            logging.getLogger("a.part").info("in %s", attempt.folder.name)
            meeting.wait()
            meeting.wait()

    threads = [threading.Thread(target=work, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    meeting.wait()
    logging.getLogger("machinery").info("of both")
    meeting.wait()
    for thread in threads:
        thread.join()
    for attempt in attempts:
        lines = [line.split(": ", 1)[1] for line in attempt.driver_log.read_text().splitlines()]
        assert lines == [f"in {attempt.folder.name}", "of both"]
    assert root.level == before
