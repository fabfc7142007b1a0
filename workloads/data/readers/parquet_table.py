"""Parquet files, a chunk to each row group."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.data.rows import Chunk, Record, malformed


def chunks(file: str) -> Iterator[Chunk]:
    """One chunk for each row group that has rows."""
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = f"the file is not Parquet: {error}"
        raise malformed(file, 1, None, reason, "check that the file is whole") from error
    first_row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if group.num_rows:
            yield Chunk(
                file, __name__, index, index + 1, first_row + 1, first_row, group.num_rows,
                group.total_byte_size,
            )  # fmt: skip
        first_row += group.num_rows


def read(chunk: Chunk) -> Iterator[Record]:
    """The row group's rows; `line` is the 1-based row in the file."""
    import pyarrow
    import pyarrow.parquet

    row = chunk.first_row
    try:
        with pyarrow.parquet.ParquetFile(chunk.file) as table:
            for batch in table.iter_batches(batch_size=1024, row_groups=[chunk.start]):
                for columns in batch.to_pylist():
                    row += 1
                    yield Record(row, columns)
    except (pyarrow.ArrowException, OSError) as error:
        reason = f"the rows from here on can't be read: {' '.join(str(error).split())}"
        raise malformed(
            chunk.file, row + 1, None, reason, "check that the file is whole"
        ) from error
