"""Which rows a stage trains on, and how they become tokens."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from jobs.spec.fields import Input, Spec

FormatName = Literal["alpaca", "sharegpt", "query-response", "messages"]

_COUNT_SUFFIX = re.compile(r"^(?P<path>.*[^#])#(?P<sample>\d+)$")


class SourceSpec(Spec):
    """One dataset: files of one format, and which of their rows to take."""

    path: str = Field(min_length=1)
    """A file (.jsonl, .json, .csv, .parquet), a folder or pattern of such files, or the name of a
    bundled dataset. A relative path is looked up beside the spec, then in the current folder."""
    sample: PositiveInt | None = None
    """How many rows to take, at random and without replacement; beyond the dataset's size, whole
    copies and then a random rest. All rows when absent. `path#500` is the short form."""
    format: FormatName | None = None
    """How a row is laid out. Told from the first row's columns when absent."""
    columns: dict[str, str] = {}
    """Renames columns before the format is applied: the file's name to the standard name."""

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """A source from its short form, `path` or `path#500`."""
        match = _COUNT_SUFFIX.match(text)
        return cls(path=match["path"], sample=int(match["sample"])) if match else cls(path=text)


Source = Annotated[str, Field(min_length=1)] | SourceSpec
Sources = Annotated[tuple[Source, ...], Field(min_length=1)]


class RowsSpec(Spec):
    """What all datasets have in common: what is said around their rows."""

    system: str | None = None
    """The system message of rows that have none of their own; the chat template's when absent."""
    chat_template: str | None = None
    """A file with the Jinja chat template to use instead of the tokenizer's."""
    strict: bool = False
    """Makes a row that can't be used an error. Otherwise such rows are counted and left out."""
    shuffle: bool = True
    """Shuffles the rows anew in each epoch, in an order that depends on seed and epoch alone."""
    model_name: str | tuple[str, str] | None = None
    """Fills `{{NAME}}` in the rows: one name, or two as `[Chinese, English]`."""
    model_author: str | tuple[str, str] | None = None
    """Fills `{{AUTHOR}}` in the rows: one name, or two as `[Chinese, English]`."""

    @property
    def sources(self) -> dict[str, tuple[SourceSpec, ...]]:
        """All datasets in their long form, by the field that names them; the main one first."""
        raise NotImplementedError

    @property
    def taken(self) -> dict[str, Input]:
        """What may be another stage's dataset, by its place in the stage."""
        given = {field: getattr(self, field) for field in self.sources}
        return {
            f"dataset.{field}[{index}]{'' if isinstance(written[index], str) else '.path'}": Input(
                source.path, ("dataset",)
            )
            for field, sources in self.sources.items()
            for index, source in enumerate(sources)
            if (written := given[field])
        }

    @property
    def main_field(self) -> str:
        """The field that names the rows the stage is about."""
        return next(iter(self.sources))


class TrainRowsSpec(RowsSpec):
    """Rows to train on."""

    train: Sources
    """The datasets to train on; their rows are shuffled together."""

    @property
    def train_sources(self) -> tuple[SourceSpec, ...]:
        """The training datasets, each in its long form."""
        return _long_form(self.train)

    @property
    def sources(self) -> dict[str, tuple[SourceSpec, ...]]:
        """The training datasets."""
        return {"train": self.train_sources}

    @model_validator(mode="after")
    def _train_sources_have_paths(self) -> TrainRowsSpec:
        _check_counts(self.train)
        return self


class DatasetSpec(TrainRowsSpec):
    """Training rows, validation rows, and the way from rows to tokens."""

    validation: Annotated[float, Field(ge=0, lt=1)] | PositiveInt | Sources = 0.0
    """A share of the training rows (0.02), a number of them (200), or datasets of its own. Rows
    held out are never trained on."""
    max_length: PositiveInt = 2048
    """The most tokens that a row may have."""
    truncation_strategy: Literal["delete", "left", "right"] = "delete"
    """What becomes of a longer row: dropped, or cut at its left or right end."""

    @property
    def validation_sources(self) -> tuple[SourceSpec, ...]:
        """The validation datasets, each in its long form; none where rows are held out."""
        return _long_form(self.validation) if isinstance(self.validation, tuple) else ()

    @property
    def sources(self) -> dict[str, tuple[SourceSpec, ...]]:
        """The datasets to train on, and those to validate on."""
        return {"train": self.train_sources, "validation": self.validation_sources}

    @property
    def held_out(self) -> NonNegativeFloat | int:
        """The share (below 1) or number of training rows to hold out for validation."""
        return 0 if isinstance(self.validation, tuple) else self.validation

    @model_validator(mode="after")
    def _validation_sources_have_paths(self) -> DatasetSpec:
        _check_counts(self.validation if isinstance(self.validation, tuple) else ())
        return self


class PromptsSpec(TrainRowsSpec):
    """Prompts to complete. All columns of a row reach the rewards.

    A row's last turn of the assistant, or its response, is no part of the prompt: rewards get it as
    `solution`, where the row has no such column.
    """

    max_length: PositiveInt = 1024
    """The most tokens that a prompt may have."""
    truncation_strategy: Literal["delete", "left"] = "left"
    """What becomes of a longer prompt: dropped, or cut at its left end."""


class EvaluationRowsSpec(RowsSpec):
    """Rows to test a model on.

    A row's last turn of the assistant, or its response, is what the model's answer is compared
    with, and no part of the prompt. The metric `accuracy` takes the column `solution` for that,
    where a row has one.
    """

    test: Sources
    """The datasets to test on."""
    shuffle: bool = True
    """Where a source takes fewer rows than it has: takes them at random. The first ones else."""
    max_length: PositiveInt = 1024
    """The most tokens that a prompt may have, and a conversation whose loss is measured."""
    truncation_strategy: Literal["delete", "left"] = "left"
    """What becomes of what is longer: left out, or cut at its left end."""

    @property
    def sources(self) -> dict[str, tuple[SourceSpec, ...]]:
        """The datasets to test on."""
        return {"test": _long_form(self.test)}

    @model_validator(mode="after")
    def _test_sources_have_paths(self) -> EvaluationRowsSpec:
        _check_counts(self.test)
        return self


class SampleRowsSpec(RowsSpec):
    """Rows to have completed. All columns of a row reach the rewards.

    A row's last turn of the assistant, or its response, is no part of the prompt: rewards get it as
    `solution`, where the row has no such column.
    """

    prompts: Sources
    """The datasets whose rows are completed."""
    shuffle: bool = True
    """Where a source takes fewer rows than it has: takes them at random. The first ones else."""
    max_length: PositiveInt = 1024
    """The most tokens that a prompt may have."""
    truncation_strategy: Literal["delete", "left"] = "delete"
    """What becomes of a longer prompt: left out, or cut at its left end."""

    @property
    def sources(self) -> dict[str, tuple[SourceSpec, ...]]:
        """The datasets to complete."""
        return {"prompts": _long_form(self.prompts)}

    @model_validator(mode="after")
    def _sources_have_paths(self) -> SampleRowsSpec:
        _check_counts(self.prompts)
        return self


PromptRowsSpec = PromptsSpec | EvaluationRowsSpec | SampleRowsSpec
"""Datasets that are cut into prompts, and answers to compare with."""


def _check_counts(sources: tuple[str | SourceSpec, ...]) -> None:
    for source in sources:
        match = _COUNT_SUFFIX.match(source) if isinstance(source, str) else None
        if match and int(match["sample"]) == 0:
            raise ValueError(f"{source!r} takes no rows; write a number above zero after the #")


def _long_form(sources: tuple[str | SourceSpec, ...]) -> tuple[SourceSpec, ...]:
    return tuple(
        SourceSpec.parse(source) if isinstance(source, str) else source for source in sources
    )
