"""JSON Lines: one object to a line, blank lines ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from workloads.data.readers import CHUNK_BYTES
from workloads.data.rows import Chunk, Record, malformed


def chunks(file: str) -> Iterator[Chunk]:
    """Cuts the file at line ends, about every `CHUNK_BYTES`."""
    start = position = line = row = 0
    first_line, first_row = 1, 0

    def chunk() -> Chunk:
        size = position - start
        return Chunk(file, __name__, start, position, first_line, first_row, row - first_row, size)

    with Path(file).open("rb") as stream:
        for text in stream:
            position += len(text)
            line += 1
            row += bool(text.strip())
            if position - start >= CHUNK_BYTES:
                yield chunk()
                start, first_line, first_row = position, line + 1, row
    if row > first_row:
        yield chunk()


def read(chunk: Chunk) -> Iterator[Record]:
    """The chunk's rows; `line` is the line in the whole file."""
    line = chunk.first_line - 1
    with Path(chunk.file).open("rb") as stream:
        stream.seek(chunk.start)
        while stream.tell() < chunk.stop:
            text = stream.readline()
            line += 1
            if text.strip():
                yield Record(line, _parse(chunk.file, line, text))


def _parse(file: str, line: int, text: bytes) -> dict[str, object]:
    remedy = "mend or delete this line; every line must hold one JSON object"
    if Path(file).suffix.lower() == ".json":
        remedy += ", or the whole file one array of objects: [{...}, {...}]"
    try:
        # json would guess UTF-16 and UTF-32, whose line ends are other bytes.
        value = json.loads(text.decode("utf-8-sig" if line == 1 else "utf-8"))
    except json.JSONDecodeError as error:
        reason = f"this line is not JSON: {error.msg}"
        raise malformed(file, line, error.colno, reason, remedy) from error
    except UnicodeDecodeError as error:
        reason = f"this line is not UTF-8 text: {error.reason}"
        raise malformed(file, line, error.start + 1, reason, "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = f"this line holds a number too long or lists too deep to be read: {error}"
        raise malformed(file, line, None, reason, remedy) from error
    if not isinstance(value, dict):
        reason = f"this line holds a JSON {type(value).__name__}, not an object"
        raise malformed(file, line, 1, reason, remedy)
    return value
