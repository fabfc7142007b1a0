"""What the process that makes an exported model is given."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.spec.export import ExportSpec
from workloads.models.resolve import ModelSource


@dataclass(frozen=True)
class ExportTask:
    """One model to export."""

    name: str
    """What the model is called in its own metadata."""
    base: ModelSource
    """The model, or the one that the adapter belongs to."""
    adapter: str | None
    """The folder of the adapter to merge into it."""
    spec: ExportSpec
    target: str
    """The folder to leave the result in."""
    scratch: str
    """A folder for weights that are needed only on the way."""
    progress_json: str
    """Where to tell how far the work is."""
