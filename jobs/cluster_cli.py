"""The commands that deal with running clusters."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from jobs.elsewhere import OnKubernetes, on_kubernetes
from jobs.errors import UserError
from jobs.options import (
    address_option,
    backend_option,
    current_profile,
    force_stage_option,
    needed_address,
    new_option,
    no_cache_option,
    profile_option,
    resolve_job,
    set_option,
    ship_code_option,
    spec_argument,
    storage_option,
)


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
@no_cache_option
@force_stage_option
@new_option
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
    no_cache: bool,
    force_stages: tuple[str, ...],
    new: bool,
) -> None:
    """Run SPEC on a cluster that is running, by its Jobs API; or on pods of its own, by KubeRay.

    The same command again goes on with a job that ended before its time, and attaches to one that
    is still active. Without --backend it is kuberay where the profile has a section kubernetes and
    no address is named.
    """
    if on_kubernetes(address, backend):
        if new:
            raise UserError(
                "KubeRay starts a job again after a failure, and with --new each time would be "
                "another run",
                "use --no-cache, or --force-stage STAGE: the first of them begins a run of its own",
            )
        cluster = OnKubernetes.of_profile()
        cluster.submit(spec, overrides, storage, force_stages, no_cache=no_cache, follow=follow)
        return
    from jobs.asked import Submitted, asked_for
    from jobs.plan.forced import forced_stages
    from jobs.sending import send, show
    from jobs.submission import Choice, checked_folder
    from storage.uri import parse_uri

    # A relative folder would be looked for in the folder that the job has on the cluster.
    where = parse_uri(storage)
    loaded, plan = resolve_job(spec, overrides, str(where.local_path or where))
    submitted = Submitted(
        address=needed_address(address),
        host=socket.gethostname(),
        working_dir=None if no_working_dir else str(checked_folder(working_dir)),
        storage=plan.storage,
        ship_code=ship_code,
    )
    profile = current_profile()
    asked = asked_for(loaded, overrides, profile, submitted=submitted)
    forced = forced_stages(plan, force_stages, no_cache=no_cache)
    sent = send(loaded, plan, profile, asked, Choice(forced=forced, new=new))
    show(sent, follow=follow, wait=not no_wait)


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
        forced=submission.choice.forced,
        new=submission.choice.new,
        asked=submission.asked,
        run_id=submission.choice.run_id,
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
