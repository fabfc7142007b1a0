"""The commands that deal with running clusters."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.elsewhere import OnKubernetes, follow_job, on_kubernetes
from jobs.errors import ClusterError, ExitCode
from jobs.masking import SECRETS_VARIABLE, secret_names
from jobs.options import (
    address_option,
    backend_option,
    current_profile,
    needed_address,
    profile_option,
    resolve_job,
    set_option,
    ship_code_option,
    spec_argument,
    stop_grace_s,
    storage_option,
)

if TYPE_CHECKING:
    from cluster.ray_jobs import Job, RayJobs
    from jobs.load.site_profile import LoadedProfile

_BEGIN_S = 120.0


@click.command()
@spec_argument
@set_option
@profile_option
@storage_option
@address_option
@click.option(
    "--working-dir",
    metavar="FOLDER",
    help="The folder whose files go along, such as your rewards; the current one by default. What "
    ".gitignore and .rayignore name stays here.",
)
@click.option("--no-working-dir", is_flag=True, help="Send no files.")
@ship_code_option
@backend_option
@click.option("--follow", "-f", is_flag=True, help="Show what the driver says until the end.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the driver has begun.")
def submit(
    spec: Path,
    overrides: tuple[str, ...],
    storage: str,
    address: str | None,
    working_dir: str | None,
    no_working_dir: bool,
    ship_code: bool,
    backend: str | None,
    follow: bool,
    no_wait: bool,
) -> None:
    """Run SPEC on a cluster that is running, by its Jobs API; or on pods of its own, by KubeRay.

    The same command again goes on with a job that ended before its time, and attaches to one that
    is still active. Without --backend it is kuberay where the profile has a section kubernetes and
    no address is named.
    """
    if on_kubernetes(address, backend):
        OnKubernetes.of_profile().submit(spec, overrides, storage, follow=follow)
        return
    from cluster.ray_jobs import RayJobs, entrypoint, metadata
    from cluster.runtime_env import stays_here, submitted_env
    from jobs.submission import check_files, checked_folder, digest, pack
    from storage.uri import parse_uri

    profile = current_profile()
    # A relative folder would be looked for in the folder that the job has on the cluster.
    where = parse_uri(storage)
    root = str(where.local_path or where)
    loaded, plan = resolve_job(spec, overrides, root)
    folder = None if no_working_dir else checked_folder(working_dir)
    check_files(loaded, folder)
    url = needed_address(address)
    grace_s = stop_grace_s()
    with tempfile.TemporaryDirectory(prefix="raysmith-") as scratch:
        packed = pack(Path(scratch), loaded, plan, profile, overrides, folder, ship_code=ship_code)
        excludes = stays_here(folder, where.local_path) if folder else []
        environment = submitted_env(
            folder, excludes, packed, grace_s, _variables(profile, loaded.text)
        )
        jobs = RayJobs(url)
        what = digest(plan, folder, excludes)
        job_id, is_new = _job_id(jobs.all(), plan.name, what)
        if is_new:
            command = entrypoint("jobs.cli", "drive")
            jobs.submit(job_id, command, environment, metadata(plan.name, what))
    click.echo(f"{job_id}: {'submitted' if is_new else 'active already, with the same content'}")
    if follow:
        raise SystemExit(follow_job(jobs, job_id))
    if not no_wait:
        _show_beginning(jobs, job_id)
    click.echo(_next_commands(job_id, url))


def _variables(profile: LoadedProfile | None, spec_text: str) -> Mapping[str, str]:
    names = profile.spec.env if profile else ()
    told = {name: os.environ[name] for name in names if name in os.environ}
    return {**told, SECRETS_VARIABLE: ",".join(sorted(secret_names(spec_text)))}


def _job_id(jobs: list[Job], name: str, digest: str) -> tuple[str, bool]:
    """The id of the active job of this digest, or a new one; and whether it is new."""
    same = [job for job in jobs if job.digest == digest]
    for job in same:
        if not job.is_final:
            return job.id, False
    stem = f"{name}-{digest[:8]}-"
    numbers = [job.id.removeprefix(stem) for job in jobs if job.id.startswith(stem)]
    last = max((int(number) for number in numbers if number.isdigit()), default=0)
    return f"{stem}{last + 1}", True


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


def _next_commands(job_id: str, url: str) -> str:
    where = f"{job_id} --address {url}"
    return f"next:\n  raysmith logs -f {where}\n  raysmith status {where}\n  raysmith stop {where}"


@click.command(hidden=True)
def drive() -> None:
    """Run the job that was sent to this process. The cluster starts it, not a person."""
    from jobs.run import run_job
    from jobs.submission import received

    submission, loaded, plan = received()
    code = run_job(
        loaded,
        plan,
        "auto",
        dashboard=False,
        command=submission.command,
        git_revision=submission.git_revision,
    )
    raise SystemExit(code)


@click.command()
@storage_option
@profile_option
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line to each finding.")
@click.option("--here", is_flag=True, hidden=True)
def doctor(storage: str, address: str | None, as_json: bool, here: bool) -> None:
    """Look at a cluster: versions, code, resources, clocks, GPUs, storage, network.

    A line says what was found, and what to do where something is wrong. The cluster is the one at
    --address (its dashboard, or HOST:PORT of Ray itself) or of the profile, or that of
    RAY_ADDRESS; else a Ray of this machine's own. Exits with 3 if something is wrong.
    """
    from jobs.doctor import diagnose, send

    profile = current_profile()
    own = profile.spec.address if profile else None
    found = address or own or os.environ.get("RAY_ADDRESS")
    if found and found.startswith(("http://", "https://")):
        raise SystemExit(send(found.rstrip("/"), storage, as_json=as_json))
    raise SystemExit(diagnose("auto" if here else found, storage, as_json=as_json))
