"""Looks at datasets before anything runs: are they there, are they whole, can rows be used."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from jobs.errors import Problem, SpecError, UserError
from jobs.load.loaded import LoadedSpec
from jobs.spec.dataset import DatasetSpec, RowsSpec, SourceSpec
from jobs.spec.fields import REFERENCE
from workloads.check import Findings
from workloads.data.conversation import RowReader, has_placeholder
from workloads.data.formats import known_columns
from workloads.data.readers import load_reader
from workloads.data.rows import (
    REPORTED_ROWS,
    BadRow,
    LeftOut,
    Message,
    Record,
    UnknownFormat,
    bad_row_problems,
    mend_rows,
)
from workloads.data.sources import BUNDLED, chunk_files, find_files

READ_WHOLE_BYTES = 64 * 2**20
"""Datasets up to this size are read whole; of larger ones only the first rows. Training finds the
rest."""

_ROWS_OF_LARGE = 10_000

Judge = Callable[[RowReader, Mapping[str, Any]], list[Message]]
"""Reads a row's columns as a stage does: into messages, or a BadRow."""


def check_dataset(
    loaded: LoadedSpec, stage: str, dataset: RowsSpec, findings: Findings,
    judge: Judge = RowReader.messages,
) -> None:  # fmt: skip
    """Adds what is wrong with a dataset's sources, and digests of their content."""
    named = [
        (f"{field}[{index}]", source)
        for field, sources in dataset.sources.items()
        for index, source in enumerate(sources)
        if not REFERENCE.match(source.path)  # its rows are not there yet
    ]
    rows: dict[str, int | None] = {}
    for path, source in named:
        place = f"stages.{stage}.dataset.{path}"
        try:
            files = find_files(source.path, loaded.base_folders)
            findings.digests[f"dataset.{path}"] = _digest(files)
            rows[path] = _check_rows(loaded, place, dataset, source, files, findings, judge)
        except SpecError as error:
            findings.problems += error.problems
        except UserError as error:
            findings.problems.append(loaded.problem(place, error.message, error.remedy))
        except OSError as error:
            message = f"{error.filename or source.path} can't be read: {error.strerror}"
            findings.problems.append(loaded.problem(place, message, "check its permissions"))
    count = sum(map(len, dataset.sources.values()))
    if len(rows) == count and isinstance(dataset, DatasetSpec):
        findings.problems += _held_out_problems(loaded, stage, dataset, list(rows.values()))
    if dataset.chat_template:
        findings.problems += _template_problems(loaded, stage, dataset.chat_template, findings)


def _held_out_problems(
    loaded: LoadedSpec, stage: str, dataset: DatasetSpec, rows: Iterable[int | None]
) -> Iterator[Problem]:
    """A problem where validation takes all rows. `rows` are those of each source, where known."""
    held_out, known = dataset.held_out, [count for count in rows if count is not None]
    used = [min(n, s.sample or n) for n, s in zip(known, dataset.train_sources, strict=False)]
    # A share takes at least one row of each source.
    takes_all = sum(used) <= held_out if held_out >= 1 else held_out > 0 and set(used) == {1}
    if takes_all and any(used) and len(used) == len(dataset.train_sources):
        yield loaded.problem(
            f"stages.{stage}.dataset.validation",
            f"no row is left to train on: validation takes all {sum(used):,}",
            "hold out fewer, or give more rows",
        )


def _template_problems(
    loaded: LoadedSpec, stage: str, path: str, findings: Findings
) -> Iterator[Problem]:
    place = f"stages.{stage}.dataset.chat_template"
    try:
        file = next((f for base in loaded.base_folders if (f := Path(base, path)).is_file()), None)
        if not file:
            remedy = "give the path of a file with a Jinja chat template"
            yield loaded.problem(place, f"no file at {path!r}", remedy)
            return
        content = file.read_bytes()
        findings.digests["dataset.chat_template"] = hashlib.sha256(content).hexdigest()
        text = content.decode()
    except OSError as error:
        reason = f"{path!r} can't be read: {error.strerror}"
        yield loaded.problem(place, reason, "check its permissions")
        return
    except UnicodeDecodeError as error:
        reason = f"the chat template is not UTF-8 text: {error.reason}"
        yield Problem(reason, "save the file as UTF-8", place, str(file), 1)
        return
    if not text.strip():
        yield Problem(
            "the chat template is empty", "write one, or name another", place, str(file), 1
        )
    yield from _jinja_problems(place, file, text)


def _jinja_problems(place: str, file: Path, text: str) -> Iterator[Problem]:
    try:
        from jinja2 import Environment, TemplateSyntaxError
    except ImportError:
        return  # it comes with the libraries that train
    # As transformers reads it: with these tags, which mark the assistant's part.
    text = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", text)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except TemplateSyntaxError as error:
        reason = f"the chat template is not Jinja: {error.message}"
        yield Problem(
            reason, "mend this line, or name another file", place, str(file), error.lineno
        )


def _digest(files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{Path(file).name}\0".encode())
        with Path(file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _check_rows(
    loaded: LoadedSpec, place: str, dataset: RowsSpec, source: SourceSpec, files: list[str],
    findings: Findings, judge: Judge,
) -> int | None:  # fmt: skip
    """Looks at the rows. Returns how many there are, where all were looked at."""
    reader = RowReader.of(dataset, source)
    is_small = sum(Path(file).stat().st_size for file in files) <= READ_WHOLE_BYTES
    rows = bad = unknown = 0
    first_bad: list[LeftOut] = []
    unfilled = False
    columns: set[str] = set()
    for file, record in islice(_records(files), None if is_small else _ROWS_OF_LARGE):
        rows += 1
        columns.update(record.columns)
        try:
            unfilled = has_placeholder(judge(reader, record.columns)) or unfilled
        except BadRow as error:
            bad += 1
            unknown += isinstance(error, UnknownFormat)
            if len(first_bad) < REPORTED_ROWS:
                first_bad.append(LeftOut(file, record.line, str(error)))
    if not rows:
        findings.problems.append(
            Problem("this dataset has no rows", "give a file with rows", place, files[0], 1)
        )
    elif bad and (dataset.strict or bad == rows):
        rename = f"rename columns, `columns: {{theirs: ours}}`, for one of {known_columns()}"
        remedy = rename if unknown == rows else mend_rows(strict=dataset.strict)
        findings.problems += bad_row_problems(first_bad, bad, remedy)
    elif bad:
        findings.notes.append(f"{source.path}: {bad:,} of {rows:,} rows can't be used")
        findings.notes += [f"  {row.file}:{row.line}: {row.reason}" for row in first_bad]
    if unfilled:
        _check_names(loaded, place, dataset, source, findings)
    if is_small and rows:
        findings.problems += _column_problems(loaded, place, source, columns)
    return rows if is_small else None


def _records(files: list[str]) -> Iterator[tuple[str, Record]]:
    for chunk in chunk_files(files):
        for record in load_reader(chunk.reader).read(chunk):
            yield chunk.file, record


def _column_problems(
    loaded: LoadedSpec, place: str, source: SourceSpec, columns: set[str]
) -> Iterator[Problem]:
    """Columns to be renamed that no row has."""
    for name in sorted(set(source.columns) - columns):
        near = difflib.get_close_matches(name, sorted(columns), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        yield loaded.problem(
            (*loaded.key_path(f"{place}.columns"), name),
            f"no row has a column {name!r}",
            f"{hint}write the file's name first: {{question: query}}; the rows have "
            f"{', '.join(sorted(columns)) or 'none'}",
        )


def _check_names(
    loaded: LoadedSpec, place: str, dataset: RowsSpec, source: SourceSpec, findings: Findings
) -> None:
    message = "rows hold {{NAME}} or {{AUTHOR}}, which nothing fills"
    remedy = f"add model_name and model_author beside dataset.{dataset.main_field}"
    if source.path in BUNDLED:
        findings.problems.append(loaded.problem(place, message, remedy))
    else:
        findings.notes.append(f"{source.path}: {message}; {remedy}")
