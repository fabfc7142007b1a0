"""The job file as a whole: a name, a seed, and stages that feed one another."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jobs.spec.evaluation import EvaluateSpec
from jobs.spec.export import ExportSpec
from jobs.spec.fields import NAME_PATTERN, Spec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.merge import MergeSpec
from jobs.spec.notify import NotifySpec
from jobs.spec.sample import SampleSpec
from jobs.spec.serve import ServeSpec
from jobs.spec.sft import SftSpec
from jobs.spec.sweep import SweepSpec

SCHEMA_VERSION = 1

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
StageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""As a name, but without dots, which separate the parts of a path such as `stages.sft.model`."""

Stage = Annotated[
    SftSpec | GrpoSpec | SweepSpec | SampleSpec | EvaluateSpec | MergeSpec | ExportSpec | ServeSpec,
    Field(discriminator="kind"),
]


class JobSpec(Spec):
    """One post-training job. The same file runs on a laptop and on a cluster."""

    version: Literal[1]
    """The version of this format."""
    name: Name
    """The job's name; its runs lie under it in the storage."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Everything random follows from it: initial adapter weights, order of rows, dropout."""
    notify: NotifySpec | None = None
    """A webhook that is told what becomes of runs; the profile's when absent."""
    stages: Annotated[dict[StageName, Stage], Field(min_length=1)]
    """The job's steps by name. A stage starts when those it refers to have ended well."""
