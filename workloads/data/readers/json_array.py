"""JSON files: an array of objects, or JSON Lines under the suffix `.json`.

An array is read by one task and held in memory as text; cut large data into `.jsonl` or `.parquet`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from workloads.data.readers import jsonl
from workloads.data.rows import Chunk, Record, malformed

_SPACE = re.compile(r"\s*")
_REMEDY = "the file must hold one array of objects: [{...}, {...}]"


def chunks(file: str) -> Iterator[Chunk]:
    """One chunk with the whole array; the chunks of `jsonl` where the file is not an array."""
    with Path(file).open("rb") as stream:
        head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head and not head.startswith(b"["):
        yield from jsonl.chunks(file)
        return
    size = Path(file).stat().st_size
    rows = sum(1 for _ in read(Chunk(file, __name__, 0, size, 1, 0, 0, size)))
    if rows:
        yield Chunk(file, __name__, 0, size, 1, 0, rows, size)


def read(chunk: Chunk) -> Iterator[Record]:
    """The array's elements, each with the line that it starts on."""
    file = chunk.file
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"the file is not UTF-8 text: {error.reason} at byte {error.start}"
        raise malformed(file, 1, None, reason, "save the file as UTF-8") from error
    if not text.strip():
        return
    yield from _elements(file, text)


def _elements(file: str, text: str) -> Iterator[Record]:
    decoder = json.JSONDecoder()
    position = _skip_space(text, 0) + 1
    line, counted = 1, 0
    while True:
        position = _skip_space(text, position)
        line += text.count("\n", counted, position)
        counted = position
        if text[position : position + 1] == "]":
            _check_end(file, text, position + 1)
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            reason = f"the file is not JSON: {error.msg}"
            raise malformed(file, error.lineno, error.colno, reason, _REMEDY) from error
        except (ValueError, RecursionError) as error:
            reason = f"an element holds a number too long or lists too deep to be read: {error}"
            raise malformed(file, line, None, reason, _REMEDY) from error
        if not isinstance(value, dict):
            reason = f"an element of the array is a {type(value).__name__}, not an object"
            raise malformed(file, line, None, reason, _REMEDY)
        yield Record(line, value)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            reason = "the file is not JSON: expected ',' or ']' after an element"
            raise malformed(file, *_place(text, position), reason, _REMEDY)


def _check_end(file: str, text: str, position: int) -> None:
    end = _skip_space(text, position)
    if end < len(text):
        reason = "the file is not JSON: it goes on after the end of the array"
        raise malformed(file, *_place(text, end), reason, _REMEDY)


def _place(text: str, position: int) -> tuple[int, int]:
    line = text.count("\n", 0, position) + 1
    return line, position - text.rfind("\n", 0, position)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
