"""CSV with a header line. One task reads a file, row by row, in constant memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from workloads.data.rows import Chunk, Record, malformed


def chunks(file: str) -> Iterator[Chunk]:
    """One chunk: quoted fields may hold line ends, so a cut can't be told from the bytes."""
    size = Path(file).stat().st_size
    rows = sum(1 for _ in read(Chunk(file, __name__, 0, size, 1, 0, 0, size)))
    if rows:
        yield Chunk(file, __name__, 0, size, 1, 0, rows, size)


def read(chunk: Chunk) -> Iterator[Record]:
    """The file's rows; `line` is the last line of a row that spans several."""
    with Path(chunk.file).open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream, strict=True)
        try:
            for row in table:
                if None in row:
                    reason = f"this row has more fields than the header's {len(row) - 1}"
                    remedy = "put fields with commas between double quotes"
                    raise malformed(chunk.file, table.line_num, None, reason, remedy)
                yield Record(table.line_num, row)
        except csv.Error as error:
            reason = f"this row is not CSV: {error}"
            remedy = "check the quotes of this row"
            # `line_num` is the end of the row before: where a quote is not closed, far above here.
            raise malformed(chunk.file, table.line_num + 1, None, reason, remedy) from error
        except UnicodeDecodeError as error:
            reason = f"the file is not UTF-8 text: {error.reason}"
            raise malformed(chunk.file, 1, None, reason, "save the file as UTF-8") from error
