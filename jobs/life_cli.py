"""The commands of a run's life: which runs there are, going on with one, removing one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from jobs.options import (
    layout_of,
    profile_option,
    run_argument,
    ship_code_option,
    storage_option,
)

if TYPE_CHECKING:
    from jobs.asked import Again
    from jobs.submission import Choice
    from storage.layout import RunLayout

_STATES = ("running", "succeeded", "failed", "stopped", "interrupted")


@click.command("list")
@click.argument("name", default="", metavar="[NAME]")
@storage_option
@profile_option
@click.option("--all", "everything", is_flag=True, help="All runs, not the newest 20.")
@click.option("--state", type=click.Choice(_STATES), help="Those in this state alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(name: str, storage: str, everything: bool, state: str | None, as_json: bool) -> None:
    """List runs, those called NAME or all, the one whose state changed last first."""
    from jobs.view.runs import NEWEST, list_json, list_text, listed

    limit = None if everything else NEWEST
    runs = listed(layout_of(storage), name, state=state, limit=limit)
    if as_json:
        click.echo(list_json(runs))
    else:
        click.echo(list_text(runs) if runs else "no runs")
        if limit and len(runs) == limit:
            click.echo(f"the newest {limit}; --all lists all")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@storage_option
@profile_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(runs: tuple[str, ...], storage: str, yes: bool) -> None:
    """Remove runs, with their checkpoints and artifacts. RUN is an id, name/id or a folder.

    A run at work is refused, and one whose artifact another run took from the cache.
    """
    from jobs.removal import removable, remove

    layout = layout_of(storage)
    doomed = removable(layout, runs)
    if not yes:
        click.confirm(f"remove {', '.join(map(str, doomed))} for good?", abort=True)
    for run in doomed:
        remove(layout, run)
        click.echo(f"removed {run}")


_address = click.option(
    "--address",
    metavar="ADDRESS",
    help="A running Ray cluster; else the one that the run was submitted to, or one of our own.",
)


@click.command()
@run_argument
@storage_option
@_address
@ship_code_option
def resume(run: str, storage: str, address: str | None, ship_code: bool) -> None:
    """Go on with a run, from what its folder holds. RUN is as in `status`; else the newest run.

    Its spec, overrides and profile are those that it was begun with; its datasets and models are
    looked for where they were, and must be what they were. A run that came by `submit` is submitted
    again, from the machine that has the files that went along.
    """
    _run_again(run, storage, address, ship_code, None)


@click.command()
@run_argument
@storage_option
@click.option(
    "--from", "stage", required=True, metavar="STAGE",
    help="Run this stage anew, and what depends on it; others are taken as they are.",
)  # fmt: skip
@_address
@ship_code_option
def retry(run: str, storage: str, stage: str, address: str | None, ship_code: bool) -> None:
    """Begin a run like an earlier one, which takes over what comes before a stage."""
    _run_again(run, storage, address, ship_code, stage)


def _run_again(
    run: str, storage: str, address: str | None, ship_code: bool, stage: str | None
) -> None:
    from cluster.fingerprint import check_expected
    from jobs.asked import again
    from jobs.observed import refresh
    from jobs.plan.forced import forced_stages
    from jobs.run import run_job
    from jobs.runs import resolve_run
    from jobs.submission import Choice

    check_expected(os.environ)
    layout = resolve_run(layout_of(storage), run)
    refresh(layout)
    found = again(layout)
    forced = forced_stages(found.plan, [stage], no_cache=False) if stage else ()
    run_id = None if stage else layout.folder.name
    if found.asked.submitted and (not address or address.startswith(("http://", "https://"))):
        _submit_again(layout, found, address, ship_code, Choice(forced=forced, run_id=run_id))
        return
    raise SystemExit(
        run_job(
            found.loaded,
            found.plan,
            address or os.environ.get("RAY_ADDRESS"),
            dashboard=False,
            ship_code=ship_code,
            forced=forced,
            attaches=True,
            asked=found.asked,
            run_id=run_id,
        )
    )


def _submit_again(
    layout: RunLayout, found: Again, address: str | None, ship_code: bool, choice: Choice
) -> None:
    """Submits a run that was submitted; follows it where it is still at work."""
    from jobs.attach import attach
    from jobs.observed import is_live, read_status
    from jobs.sending import send, show

    if choice.run_id and is_live(read_status(layout)):
        raise SystemExit(attach(layout, write=click.echo))
    sent = found.asked.submitted
    assert sent is not None
    to = {
        "address": (address or sent.address).rstrip("/"),
        "ship_code": ship_code or sent.ship_code,
    }
    asked = found.asked.model_copy(update={"submitted": sent.model_copy(update=to)})
    show(send(found.loaded, found.plan, found.profile, asked, choice))
