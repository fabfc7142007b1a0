"""JSON Lines: rows and their lines, whole or in chunks, and what is said of a broken line."""

import json
from pathlib import Path

import pytest

from jobs.errors import SpecError
from workloads.data.readers import jsonl
from workloads.data.rows import Record


def _read(file: Path) -> list[Record]:
    return [record for chunk in jsonl.chunks(str(file)) for record in jsonl.read(chunk)]


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\n{"a": 1}\r\n  \n\n{"a": "\xe4\xb8\x96"}')
    assert _read(file) == [Record(2, {"a": 1}), Record(5, {"a": "世"})]
    (chunk,) = jsonl.chunks(str(file))
    assert (chunk.rows, chunk.stop) == (2, file.stat().st_size)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert _read(file) == [Record(1, {"a": 1})]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rows_has_no_chunks(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    assert list(jsonl.chunks(str(file))) == []


@pytest.mark.parametrize("size", [1, 30, 100, 1000])
def test_chunks_change_neither_rows_nor_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    file = tmp_path / "a.jsonl"
    lines = [json.dumps({"n": n, "text": "x" * (n % 40)}) for n in range(100)]
    file.write_text("\n\n".join(lines) + "\n\n\n")
    whole = _read(file)
    assert [record.line for record in whole] == list(range(1, 200, 2))
    monkeypatch.setattr(jsonl, "CHUNK_BYTES", size)
    chunks = list(jsonl.chunks(str(file)))
    assert len(chunks) > 1
    assert _read(file) == whole
    first = 0
    for chunk in chunks:
        assert chunk.first_row == first
        assert len(list(jsonl.read(chunk))) == chunk.rows
        first += chunk.rows


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b'{"a": 1,}', 9, "not JSON"),
        (b'{"a": 1} {"b"', 10, "not JSON"),
        (b"[1]", 1, "a JSON list, not an object"),
        (b"null", 1, "a JSON NoneType, not an object"),
        (b'{"a": "\xff"}', 8, "not UTF-8"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, column: int, reason: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(SpecError, match=reason) as caught:
        _read(file)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == (str(file), 3, column)
    assert problem.remedy
