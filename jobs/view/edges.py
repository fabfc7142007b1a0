"""What the stages of a run need from one another, as its plan in storage says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.observed import StageStatus
from jobs.state import StageState
from storage.layout import RunLayout


@dataclass(frozen=True)
class Edges:
    """What one stage needs."""

    needs: tuple[str, ...] = ()
    """The stages that must end well first."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The stages whose artifacts it takes, by the field that takes each."""


def read_edges(layout: RunLayout) -> dict[str, Edges]:
    """The edges of each stage; empty where the plan can't be read.

    Only these are read, so that a plan of another version tells them too.
    """
    try:
        stages: list[dict[str, Any]] = json.loads(layout.plan.read_bytes())["stages"]
        return {
            stage["name"]: Edges(tuple(stage["needs"]), dict(stage["inputs"])) for stage in stages
        }
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return {}


def missing(
    stage: StageStatus, edges: Mapping[str, Edges], of: Sequence[StageStatus]
) -> list[StageStatus]:
    """The stages that a pending stage waits for, or that kept a skipped one from running."""
    if stage.state not in (StageState.PENDING, StageState.SKIPPED):
        return []
    needs = edges.get(stage.name, Edges()).needs
    return [each for each in of if each.name in needs and not each.state.has_artifact]
