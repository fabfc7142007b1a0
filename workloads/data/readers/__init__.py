"""File types by suffix. A new one is a module with `chunks` and `read`, and a line here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from workloads.data.rows import Reader

READERS = {
    ".jsonl": "workloads.data.readers.jsonl",
    ".json": "workloads.data.readers.json_array",
    ".csv": "workloads.data.readers.csv_table",
    ".parquet": "workloads.data.readers.parquet_table",
}

CHUNK_BYTES = 8 * 2**20
"""Size that readers aim for: some seconds of tokenizing, and little memory."""


def reader_for(file: str) -> Reader:
    """The reader of a file by its suffix, which must be one of `READERS`."""
    return load_reader(READERS[Path(file).suffix.lower()])


def load_reader(module: str) -> Reader:
    """A reader by the name of its module."""
    return cast(Reader, import_module(module))
