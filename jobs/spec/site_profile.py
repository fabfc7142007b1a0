"""A profile: where jobs run, and what they may do there. The site owns it, not the job.

    version: 1
    address: http://ray-head:8265
    storage: /mnt/runs
    env: [HF_HOME, HTTPS_PROXY]
    policy: {max_workers: 64, max_gpus: 64, deadline: 24h}

`raysmith submit SPEC --profile FILE` takes it; a spec can't loosen what the profile's policy says.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from jobs.spec.fields import Duration, Spec
from jobs.spec.kubernetes_site import KubernetesSpec
from jobs.spec.notify import NotifySpec

PROFILE_VERSION = 1

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE")


def names_secret(variable: str) -> bool:
    """Whether an environment variable's name says that it holds a secret."""
    return _SECRET_NAME.search(variable.upper()) is not None


def _is_public(name: str) -> str:
    if names_secret(name):
        raise ValueError(
            f"env {name} looks like a secret, and what is passed on can be read in the cluster's "
            "dashboard; set it on the cluster's nodes, and write ${secret:"
            f"{name}}} in the job file"
        )
    return name


VariableName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_is_public)
]
"""The name of an environment variable that holds no secret."""


class PolicySpec(Spec):
    """What jobs may do here. A spec that asks for more is refused before anything starts."""

    max_workers: PositiveInt | None = None
    """The most processes that a stage may compute with at once: train workers, engines, replicas,
    and the trials of a sweep."""
    max_gpus: NonNegativeInt | None = None
    """The most GPUs that a stage may hold at once."""
    allow_user_code: bool = True
    """Whether specs may name functions of their own (import_path). Code from model repositories
    never runs, whatever this says."""
    deadline: Duration | None = None
    """How long a run may take. It commits a checkpoint then, and ends as failed."""


class ProfileSpec(Spec):
    """Where jobs run. Every part can be left out; the command line's options win over it."""

    version: Literal[1]
    """The version of this format."""
    address: str | None = Field(
        default=None, pattern=r"^https?://[^\s/@]+(/[^\s@]*)?$", examples=["http://127.0.0.1:8265"]
    )
    """The Jobs API of a running Ray cluster: the address of its dashboard."""
    storage: str | None = Field(default=None, min_length=1)
    """Where runs lie, as the cluster's nodes reach it: a folder that all of them share."""
    env: tuple[VariableName, ...] = ()
    """Environment variables that are passed on from where the job is submitted. Secrets are not
    passed on: they are set on the nodes."""
    stop_grace: Duration = "120s"
    """What a job that is stopped may take to commit its checkpoint, before it is killed."""
    kubernetes: KubernetesSpec | None = None
    """A Kubernetes cluster with KubeRay, which makes a Ray cluster for each run."""
    notify: NotifySpec | None = None
    """A webhook that is told what becomes of runs, where the spec names none."""
    policy: PolicySpec = PolicySpec()
    """What jobs may do here."""
