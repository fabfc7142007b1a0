"""Where a process of a stage prints to."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from jobs.masking import Mask, masker
from storage.layout import AttemptLayout


def print_to(log: Path) -> None:
    """Appends all that this process prints to a file, from native code too.

    Secrets are masked in what Python prints.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    mask = masker((), os.environ)
    sys.stdout = cast(TextIO, _Masked(sys.stdout, mask))
    sys.stderr = cast(TextIO, _Masked(sys.stderr, mask))


@contextmanager
def log_file(attempt: AttemptLayout) -> Iterator[None]:
    """Sends what is logged in this process to the attempt's log."""
    handler = logging.FileHandler(attempt.driver_log, encoding="utf-8")
    handler.setFormatter(_MaskedLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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


class _Masked:
    """A stream that masks what is written to it."""

    def __init__(self, stream: TextIO, mask: Mask) -> None:
        self._stream = stream
        self._mask = mask

    def write(self, text: str) -> int:
        self._stream.write(self._mask(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _MaskedLines(logging.Formatter):
    """Formats records, and masks secrets in them."""

    def __init__(self, style: str) -> None:
        super().__init__(style)
        self._mask = masker((), os.environ)

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(super().format(record))
