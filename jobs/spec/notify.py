"""Who is told what becomes of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.spec.fields import SecretReference, Spec

Occasion = Literal["failed", "stalled", "succeeded"]


class NotifySpec(Spec):
    """A webhook that is told of a run: `{webhook: "${secret:HOOK_URL}"}`.

    It is sent a POST of JSON with `run`, `name`, `state`, `stage`, `reason`, `message` and `text`,
    which Slack and its like show. That it can't be reached never fails a run.
    """

    webhook: SecretReference
    """The environment variable that holds the address, where the run's driver is. Who has such an
    address may post to it, so it is never recorded."""
    on: tuple[Occasion, ...] = Field(default=("failed", "stalled", "succeeded"), min_length=1)
    """What it is told of: the end of the run, and a stage that stood still."""
