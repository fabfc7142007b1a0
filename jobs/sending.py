"""Sends jobs to the Jobs API of a Ray cluster, and tells what became of them at first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from cluster.ray_jobs import Job, RayJobs, entrypoint, metadata
from cluster.runtime_env import stays_here, submitted_env
from jobs.asked import Asked
from jobs.elsewhere import follow_job
from jobs.errors import ClusterError, ExitCode
from jobs.load.loaded import LoadedSpec
from jobs.load.site_profile import LoadedProfile
from jobs.masking import SECRETS_VARIABLE, secret_names
from jobs.options import grace_s
from jobs.plan.resolve import Plan
from jobs.submission import Choice, check_files, digest, pack
from storage.uri import parse_uri

_BEGIN_S = 120.0


@dataclass(frozen=True)
class Sent:
    """A job that the cluster has."""

    jobs: RayJobs
    job_id: str
    is_new: bool
    """False where it had one already that does the same."""


def send(
    loaded: LoadedSpec,
    plan: Plan,
    profile: LoadedProfile | None,
    asked: Asked,
    choice: Choice,
) -> Sent:
    """Sends a job to where `asked.submitted` says, unless one of the same content is active there.

    Raises:
        SpecError: if the spec names files that would not be there.
        UserError: if the files are too many, or hide our code.
        ClusterError: if no cluster answers.
    """
    assert asked.submitted is not None
    working_dir = asked.submitted.working_dir
    folder = Path(working_dir) if working_dir else None
    check_files(loaded, folder)
    storage = parse_uri(asked.submitted.storage).local_path
    excludes = stays_here(folder, storage) if folder else []
    with tempfile.TemporaryDirectory(prefix="raysmith-") as scratch:
        packed = pack(Path(scratch), loaded, asked, choice)
        variables = _variables(profile, loaded.text)
        environment = submitted_env(folder, excludes, packed, grace_s(profile), variables)
        jobs = RayJobs(asked.submitted.address)
        what = digest(plan, folder, excludes, choice)
        job_id, is_new = job_id_of(jobs.all(), plan.name, what, new=choice.new)
        if is_new:
            command = entrypoint("jobs.cli", "drive")
            jobs.submit(job_id, command, environment, metadata(plan.name, what))
    return Sent(jobs, job_id, is_new)


def show(sent: Sent, *, follow: bool = False, wait: bool = True) -> None:
    """Tells of a job that was sent, once it has begun where `wait`; or all of it with `follow`.

    Raises:
        ClusterError: if it failed before it began.
        SystemExit: with its exit code, when it was followed.
    """
    state = "submitted" if sent.is_new else "active already, with the same content"
    click.echo(f"{sent.job_id}: {state}")
    if follow:
        raise SystemExit(follow_job(sent.jobs, sent.job_id))
    if wait:
        _show_beginning(sent.jobs, sent.job_id)
    where = f"{sent.job_id} --address {sent.jobs.address}"
    commands = (f"raysmith {verb} {where}" for verb in ("logs -f", "status", "stop"))
    click.echo("\n  ".join(("next:", *commands)))


def job_id_of(jobs: list[Job], name: str, digest: str, *, new: bool) -> tuple[str, bool]:
    """The id of the active job of this digest, or a new one; and whether it is new."""
    for job in jobs:
        if job.digest == digest and not job.is_final and not new:
            return job.id, False
    stem = f"{name}-{digest[:8]}-"
    numbers = [job.id.removeprefix(stem) for job in jobs if job.id.startswith(stem)]
    last = max((int(number) for number in numbers if number.isdigit()), default=0)
    return f"{stem}{last + 1}", True


def _variables(profile: LoadedProfile | None, spec_text: str) -> Mapping[str, str]:
    names = profile.spec.env if profile else ()
    told = {name: os.environ[name] for name in names if name in os.environ}
    return {**told, SECRETS_VARIABLE: ",".join(sorted(secret_names(spec_text)))}


def _show_beginning(jobs: RayJobs, job_id: str) -> None:
    job, folder = jobs.begun(job_id, _BEGIN_S)
    if folder:
        click.echo(f"run folder: {folder}")
    elif job.is_final and job.state != "SUCCEEDED":
        click.echo(jobs.log(job_id).rstrip() or job.message, err=True)
        raise ClusterError(f"{job_id}: {job.state.lower()} before it began", _remedy(job))
    elif not job.is_final:
        click.echo(f"{job.state.lower()} after {_BEGIN_S:.0f} s: {job.message}")


def _remedy(job: Job) -> str:
    if job.exit_code == ExitCode.USER_ERROR:
        return "mend what is said above, and submit again"
    return "see what is said above"
