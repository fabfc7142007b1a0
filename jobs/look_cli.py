"""The commands with which people look at a run: how it stands, what it said, what it left."""

from __future__ import annotations

import click

from jobs.elsewhere import elsewhere
from jobs.errors import UserError
from jobs.options import (
    address_option,
    backend_option,
    layout_of,
    profile_option,
    run_argument,
    storage_option,
)


@click.command()
@run_argument
@storage_option
@profile_option
@address_option
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(run: str, storage: str, address: str | None, backend: str | None, as_json: bool) -> None:
    """Show how a run stands. RUN is an id, a name, name/id or a folder; else the newest run.

    With --address or --backend, RUN is the id or name of a submitted job, as in `logs` and `stop`.
    """
    from jobs.observed import refresh
    from jobs.runs import resolve_run
    from jobs.view.status import as_json as status_json
    from jobs.view.status import render_status

    if there := elsewhere(address, backend):
        there.status(run)
        return
    layout = resolve_run(layout_of(storage), run)
    refresh(layout)
    click.echo(status_json(layout) if as_json else render_status(layout))


@click.command()
@run_argument
@click.argument("stage", required=False)
@storage_option
@profile_option
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    metavar="K",
    help="The attempt to show; the newest by default.",
)
@click.option(
    "--rank", type=click.IntRange(min=0), metavar="R", help="The worker of this rank alone."
)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@address_option
@backend_option
def logs(
    run: str,
    stage: str | None,
    storage: str,
    attempt: int | None,
    rank: int | None,
    follow: bool,
    address: str | None,
    backend: str | None,
) -> None:
    """Show what a run logged, or one STAGE of it. RUN is as in `status`; else the newest run.

    Without RUN, `logs STAGE` takes the newest run that has such a stage, where none is called so.
    """
    from jobs.runs import run_and_stage
    from jobs.view.logs import print_logs

    if (address or backend) and (stage or attempt or rank is not None):
        raise UserError(
            "the cluster has the log of a job's driver, and none of a stage, attempt or rank",
            "leave these out; or leave --address and --backend out, and name the --storage that "
            "the run lies in",
        )
    if there := elsewhere(address, backend):
        there.logs(run, follow=follow)
        return
    layout, stage = run_and_stage(layout_of(storage), run, stage)
    print_logs(layout, stage, attempt=attempt, rank=rank, follow=follow, write=click.echo)


@click.command()
@run_argument
@storage_option
@profile_option
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they were recorded.")
def events(run: str, storage: str, follow: bool, as_json: bool) -> None:
    """Show what happened in a run. RUN is as in `status`; else the newest run."""
    from jobs.runs import resolve_run
    from jobs.view.events import print_events

    layout = resolve_run(layout_of(storage), run)
    print_events(layout, follow=follow, as_json=as_json, write=click.echo)


@click.command()
@run_argument
@storage_option
@profile_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def artifacts(run: str, storage: str, as_json: bool) -> None:
    """Show what the stages of a run left, and what it was made of. RUN is as in `status`."""
    from jobs.observed import refresh
    from jobs.runs import resolve_run
    from jobs.view.artifacts import artifacts_json, artifacts_text

    layout = resolve_run(layout_of(storage), run)
    refresh(layout)
    click.echo(artifacts_json(layout) if as_json else artifacts_text(layout))


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@storage_option
@profile_option
def diff(first: str, second: str, storage: str) -> None:
    """Show how two runs differ: their settings, their code and data, their results."""
    from jobs.observed import refresh
    from jobs.runs import resolve_run
    from jobs.view.difference import difference

    found = [resolve_run(layout_of(storage), run) for run in (first, second)]
    for layout in found:
        refresh(layout)
    click.echo(difference(*found))
