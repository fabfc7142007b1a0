"""Where a process of a stage prints to."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, TextIO, cast

from jobs.masking import Mask, masker
from storage.layout import AttemptLayout

_LOCK = Lock()
_OPEN: dict[int, logging.Handler] = {}
"""The logs that are open, by the thread whose attempt each is of."""
_LEVEL_BEFORE = logging.WARNING
"""What the root logger let pass before the first of them was opened."""


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
    """Sends what is logged in this process to the attempt's log.

    Several attempts may be at work at once, each in a thread of its own: what another of these
    threads logs goes to its own log alone. What other threads log, such as Ray's, goes to all.
    """
    handler = logging.FileHandler(attempt.driver_log, encoding="utf-8")
    handler.setFormatter(_MaskedLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: _OPEN.get(record.thread or 0, handler) is handler)
    _open(handler)
    try:
        yield
    finally:
        _close(handler)


def _open(handler: logging.Handler) -> None:
    global _LEVEL_BEFORE
    root = logging.getLogger()
    with _LOCK:
        if not _OPEN:
            _LEVEL_BEFORE = root.level
            root.setLevel(logging.INFO)
        _OPEN[get_ident()] = handler
        root.addHandler(handler)


def _close(handler: logging.Handler) -> None:
    root = logging.getLogger()
    with _LOCK:
        root.removeHandler(handler)
        del _OPEN[get_ident()]
        if not _OPEN:
            root.setLevel(_LEVEL_BEFORE)
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
