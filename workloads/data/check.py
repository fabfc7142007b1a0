"""Looks at datasets before anything runs: are they there, are they whole, can rows be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from jobs.errors import Problem, SpecError, UserError
from jobs.load.loaded import LoadedSpec
from jobs.spec.dataset import DatasetSpec, SourceSpec
from workloads.check import Findings
from workloads.data.conversation import RowReader, has_placeholder
from workloads.data.readers import load_reader
from workloads.data.rows import REPORTED_ROWS, BadRow, LeftOut, Record, bad_row_problems
from workloads.data.sources import BUNDLED, chunk_files, find_files

READ_WHOLE_BYTES = 64 * 2**20
"""Datasets up to this size are read whole; of larger ones only the first rows. Training finds the
rest."""

_ROWS_OF_LARGE = 10_000


def check_dataset(loaded: LoadedSpec, stage: str, dataset: DatasetSpec, findings: Findings) -> None:
    """Adds what is wrong with a dataset's sources, and digests of their content."""
    named = [
        *((f"train[{i}]", source) for i, source in enumerate(dataset.train_sources)),
        *((f"validation[{i}]", source) for i, source in enumerate(dataset.validation_sources)),
    ]
    for path, source in named:
        place = f"stages.{stage}.dataset.{path}"
        try:
            files = find_files(source.path, loaded.base_folders)
            findings.digests[f"dataset.{path}"] = _digest(files)
            _check_rows(loaded, place, dataset, source, files, findings)
        except SpecError as error:
            findings.problems += error.problems
        except UserError as error:
            findings.problems.append(loaded.problem(place, error.message, error.remedy))
    if dataset.chat_template:
        _check_template(loaded, stage, dataset.chat_template, findings)


def _check_template(loaded: LoadedSpec, stage: str, path: str, findings: Findings) -> None:
    for base in loaded.base_folders:
        if Path(base, path).is_file():
            content = Path(base, path).read_bytes()
            findings.digests["dataset.chat_template"] = hashlib.sha256(content).hexdigest()
            return
    place = f"stages.{stage}.dataset.chat_template"
    findings.problems.append(
        loaded.problem(place, f"no file at {path!r}", "give the path of a Jinja chat template")
    )


def _digest(files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{Path(file).name}\0".encode())
        with Path(file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _check_rows(
    loaded: LoadedSpec, place: str, dataset: DatasetSpec, source: SourceSpec, files: list[str],
    findings: Findings,
) -> None:  # fmt: skip
    reader = RowReader.of(dataset, source)
    rows = bad = 0
    first_bad: list[LeftOut] = []
    unfilled = False
    for file, record in _records(files):
        rows += 1
        try:
            unfilled = has_placeholder(reader.messages(record.columns)) or unfilled
        except BadRow as error:
            bad += 1
            if len(first_bad) < REPORTED_ROWS:
                first_bad.append(LeftOut(file, record.line, str(error)))
    if not rows:
        findings.problems.append(
            Problem("this dataset has no rows", "give a file with rows", place, files[0], 1)
        )
    elif bad and (dataset.strict or bad == rows):
        findings.problems += bad_row_problems(first_bad, bad, strict=dataset.strict)
    elif bad:
        findings.notes.append(f"{source.path}: {bad:,} of {rows:,} rows can't be used")
        findings.notes += [f"  {row.file}:{row.line}: {row.reason}" for row in first_bad]
    if unfilled:
        _check_names(loaded, place, source, findings)


def _records(files: list[str]) -> Iterator[tuple[str, Record]]:
    small = sum(Path(file).stat().st_size for file in files) <= READ_WHOLE_BYTES
    records = (
        (chunk.file, record)
        for chunk in chunk_files(files)
        for record in load_reader(chunk.reader).read(chunk)
    )
    return records if small else islice(records, _ROWS_OF_LARGE)


def _check_names(loaded: LoadedSpec, place: str, source: SourceSpec, findings: Findings) -> None:
    message = "rows hold {{NAME}} or {{AUTHOR}}, which nothing fills"
    remedy = "add model_name and model_author beside dataset.train"
    if source.path in BUNDLED:
        findings.problems.append(loaded.problem(place, message, remedy))
    else:
        findings.notes.append(f"{source.path}: {message}; {remedy}")
