"""Puts earlier stages' datasets into the spec of a stage, once they are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_changes
from pathlib import Path

from pydantic import TypeAdapter

from jobs.load.tree import replace, split_dotted, value_at
from jobs.plan.resolve import StagePlan
from jobs.spec.job import Stage


def with_datasets(stage: StagePlan, artifacts: Mapping[str, Path]) -> StagePlan:
    """The stage with the folders of the datasets that it takes in the place of their references.

    Args:
        stage: as planned.
        artifacts: folders of what the stage takes, by field. Those of models stay references.
    """
    places = ("dataset.", "trial.dataset.")
    taken = {field: path for field, path in artifacts.items() if field.startswith(places)}
    if not taken:
        return stage
    fields = stage.spec.model_dump(mode="json")
    for field, folder in taken.items():
        path = split_dotted(field, fields)
        behind = str(value_at(fields, path)).rpartition("}")[2]
        replace(fields, path, f"{folder}{behind}")
    return with_changes(stage, spec=TypeAdapter[Stage](Stage).validate_python(fields))
