"""Commands that find, show and remove runs, from their storage alone."""

from __future__ import annotations

import click

from jobs.options import layout_of, profile_option, storage_option

_SHOWN = 20


@click.command("list")
@click.argument("name", required=False)
@storage_option
@profile_option
@click.option("--all", "everything", is_flag=True, help=f"All runs, not the newest {_SHOWN}.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["running", "interrupted", "succeeded", "failed", "stopped"]),
    help="Runs in this state only. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_runs(
    name: str | None, storage: str, everything: bool, states: tuple[str, ...], as_json: bool
) -> None:
    """Show the runs of a storage, or those called NAME, the newest first."""
    from jobs.view.listing import listing

    limit = None if everything else _SHOWN
    click.echo(listing(layout_of(storage), name, states, limit, as_json=as_json))


@click.command()
@click.argument("run", default="", metavar="[RUN]")
@storage_option
@profile_option
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as they are recorded.")
def events(run: str, storage: str, follow: bool, as_json: bool) -> None:
    """Show what happened in a run. RUN is as in `status`; else the newest run."""
    from jobs.runs import resolve_run
    from jobs.view.events import print_events

    layout = resolve_run(layout_of(storage), run)
    print_events(layout, follow=follow, as_json=as_json, write=click.echo)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@storage_option
@profile_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(runs: tuple[str, ...], storage: str, yes: bool) -> None:
    """Remove runs with all that they left. RUN is as in `status`.

    One that is at work is refused, and so is one whose artifacts a run uses that stays.
    """
    from jobs.removal import check_removable, remove
    from jobs.runs import resolve_run

    layout = layout_of(storage)
    found = [resolve_run(layout, run) for run in dict.fromkeys(runs)]
    for each in found:
        check_removable(each, frozenset(found))
    names = [f"{each.folder.parent.name}/{each.folder.name}" for each in found]
    if not yes:
        click.confirm(f"Remove {', '.join(names)} and all that they left?", abort=True)
    for each, name in zip(found, names, strict=True):
        remove(each)
        click.echo(f"{name}: removed")
