"""CSV and Parquet: rows and where they stand, and what is said of broken files."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jobs.errors import SpecError
from workloads.data.readers import csv_table, parquet_table
from workloads.data.rows import Record


def _csv(folder: Path, content: str) -> list[Record]:
    file = folder / "a.csv"
    file.write_text(content, encoding="utf-8", newline="")
    (chunk,) = csv_table.chunks(str(file))
    records = list(csv_table.read(chunk))
    assert chunk.rows == len(records)
    return records


def test_csv_fields_may_hold_line_ends_and_commas(tmp_path: Path) -> None:
    records = _csv(tmp_path, '\ufeffquery,response\r\n"a\nb","c, ""d"""\r\n\r\ne,f\r\n')
    assert [dict(record.columns) for record in records] == [
        {"query": "a\nb", "response": 'c, "d"'},
        {"query": "e", "response": "f"},
    ]
    assert [record.line for record in records] == [3, 5]


def test_csv_fields_that_are_missing_are_null(tmp_path: Path) -> None:
    (record,) = _csv(tmp_path, "query,response\na\n")
    assert record.columns == {"query": "a", "response": None}


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("a,b\n1,2\n1,2,3\n", 3, "more fields than the header's 2"),
        ('a,b\n1,2\n1,"2" 3\n', 3, "not CSV"),
        ('a,b\n1,2\n1,"2\n3,4\n5,6\n', 3, "not CSV"),
    ],
)
def test_csv_errors_have_a_line(tmp_path: Path, content: str, line: int, reason: str) -> None:
    with pytest.raises(SpecError, match=reason) as caught:
        _csv(tmp_path, content)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "a.csv"), line)


def test_csv_of_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("query,response\na,é\n".encode("latin-1"))
    with pytest.raises(SpecError, match="not UTF-8"):
        list(csv_table.chunks(str(file)))


def test_csv_without_rows_has_no_chunks(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("query,response\n")
    assert list(csv_table.chunks(str(file))) == []


def test_parquet_is_read_by_row_group(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "é"}]}
        for n in range(5)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=2)
    chunks = list(parquet_table.chunks(str(file)))
    assert [(chunk.first_row, chunk.rows) for chunk in chunks] == [(0, 2), (2, 2), (4, 1)]
    records = [record for chunk in chunks for record in parquet_table.read(chunk)]
    assert records == [Record(n + 1, row) for n, row in enumerate(rows)]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_broken_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(content)
    with pytest.raises(SpecError, match="not Parquet"):
        list(parquet_table.chunks(str(file)))
