"""Where a process of a stage prints to."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def print_to(log: Path) -> None:
    """Appends all that this process prints to a file, from native code too."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
