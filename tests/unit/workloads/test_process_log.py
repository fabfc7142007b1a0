"""Where what is logged goes while a stage works."""

import logging
from contextlib import suppress
from pathlib import Path

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
