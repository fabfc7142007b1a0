"""Where a process of a stage prints to."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.layout import AttemptLayout


def print_to(log: Path) -> None:
    """Appends all that this process prints to a file, from native code too."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


@contextmanager
def log_file(attempt: AttemptLayout) -> Iterator[None]:
    """Sends what is logged in this process to the attempt's log."""
    handler = logging.FileHandler(attempt.driver_log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
