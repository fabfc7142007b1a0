"""The command that prints what a job is in Kubernetes."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.errors import UserError
from jobs.options import (
    DEFAULT_STORAGE,
    current_profile,
    profile_option,
    resolve_job,
    set_option,
)


@click.command()
@click.argument("spec", type=click.Path(path_type=Path), required=False)
@set_option
@profile_option
@click.option("--storage", metavar="PATH", help="Where runs lie in the pods; the profile's.")
@click.option("--cluster", metavar="NAME", help="Print a cluster to share, and no job.")
def render(
    spec: Path | None, overrides: tuple[str, ...], storage: str | None, cluster: str | None
) -> None:
    """Print SPEC as documents for Kubernetes with KubeRay, which `kubectl apply -f -` takes.

    What runs to its end becomes a RayJob, and each serve stage a RayService. The profile's section
    `kubernetes` says in which pods. With --cluster and no SPEC, it is a RayCluster for several
    jobs, of as many pods as the profile has.
    """
    from dataclasses import replace

    from cluster.kuberay import documents, rules
    from cluster.kuberay.text import to_documents

    profile = current_profile()
    if profile is None:
        raise UserError(
            "no profile says in which image and pods the job runs",
            "give --profile FILE with a section kubernetes; k8s/profiles holds two",
        )
    if (spec is None) == (cluster is None):
        raise UserError(
            "say what to render: a SPEC, or --cluster NAME", "raysmith render --help shows both"
        )
    if storage:
        profile = replace(profile, spec=profile.spec.model_copy(update={"storage": storage}))
    if spec is None:
        found = documents.render_cluster(profile, str(cluster))
    else:
        loaded, plan = resolve_job(spec, overrides, profile.spec.storage or DEFAULT_STORAGE)
        found = documents.render(loaded, plan, profile)
    rules.check(found)
    click.echo(to_documents(found), nl=False)
