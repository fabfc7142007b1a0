"""JSON arrays: rows with the lines that they start on, and the place of what is broken."""

from pathlib import Path

import pytest

from jobs.errors import SpecError
from workloads.data.readers import json_array, load_reader
from workloads.data.rows import Record


def _file(folder: Path, content: str) -> Path:
    file = folder / "a.json"
    file.write_text(content, encoding="utf-8")
    return file


def _read(file: Path) -> list[Record]:
    chunks = list(json_array.chunks(str(file)))
    return [record for chunk in chunks for record in load_reader(chunk.reader).read(chunk)]


@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
def test_a_row_s_line_is_where_it_starts(tmp_path: Path, start: str) -> None:
    content = start + '[{"a": 1}, {"a": 2},\n\n  {\n "a": 3\n}\n, {"a": "]"}]\n'
    shift = start.count("\n")
    lines = [
        (record.line - shift, record.columns["a"]) for record in _read(_file(tmp_path, content))
    ]
    assert lines == [(1, 1), (1, 2), (3, 3), (6, "]")]


@pytest.mark.parametrize("content", ["", " \n", "[]", "[\n]\n"])
def test_a_file_without_rows_has_no_chunks(tmp_path: Path, content: str) -> None:
    assert list(json_array.chunks(str(_file(tmp_path, content)))) == []


def test_a_trailing_comma_does_no_harm(tmp_path: Path) -> None:
    assert len(_read(_file(tmp_path, '[{"a": 1},\n]'))) == 1


def test_json_lines_go_by_this_suffix_too(tmp_path: Path) -> None:
    file = _file(tmp_path, '{"a": 1}\n{"a": 2}\n')
    assert _read(file) == [Record(1, {"a": 1}), Record(2, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "line", "column", "reason"),
    [
        ('[{"a": 1},\n {"a": 2}\n {"a": 3}]', 3, 2, "expected ',' or ']'"),
        ('[{"a": 1},\n {"a": oops}]', 2, 8, "Expecting value"),
        ('[{"a": 1},\n\n 7]', 3, None, "a int, not an object"),
        ('[{"a": 1},\n {"a": 2}', 2, 10, "expected ',' or ']'"),
        ('[{"a": 1},\n {"a": "cut off', 2, 8, "Unterminated string"),
        ('[{"a": 1},\n', 2, 1, "Expecting value"),
        ('[{"a": 1}]\n[{"a": 2}]\n', 2, 1, "goes on after the end"),
    ],
)
def test_what_is_broken_has_a_place(
    tmp_path: Path, content: str, line: int, column: int | None, reason: str
) -> None:
    file = _file(tmp_path, content)
    with pytest.raises(SpecError) as caught:
        _read(file)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == (str(file), line, column)
    assert reason in problem.message


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes('[{"a": "é"}]'.encode("latin-1"))
    with pytest.raises(SpecError, match=r"not UTF-8 text: .* at byte 8"):
        _read(file)
