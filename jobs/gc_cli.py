"""The command that removes what nobody needs any more."""

from __future__ import annotations

import click

from jobs.options import layout_of, profile_option, storage_option

_ABANDONED_S = 86400.0


def _seconds(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    from jobs.spec.fields import duration_s

    try:
        return duration_s(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("name", default="", metavar="[NAME]")
@storage_option
@profile_option
@click.option(
    "--older-than",
    "older_than_s",
    callback=_seconds,
    metavar="DURATION",
    help="Also whole runs that ended longer ago, such as 30d.",
)
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also whole runs beyond the newest N of a name. With --older-than, those that are both.",
)
@click.option(
    "--copies", is_flag=True, help="Also copies on this machine of ended runs in a store."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--reindex", is_flag=True, help="Make the index of runs anew first.")
def gc(
    name: str,
    storage: str,
    older_than_s: float | None,
    keep_last: int | None,
    copies: bool,
    dry_run: bool,
    reindex: bool,
) -> None:
    """Remove what runs left behind that nobody needs, of runs called NAME or of all.

    That is what attempts began and never finished, in runs that are not at work; and uploads that
    were abandoned a day ago. Whole runs go only with --older-than or --keep-last, and never one
    whose artifact another run takes that stays.
    """
    from jobs.collection import Rules, find_garbage
    from jobs.runs import reindex as make_index
    from jobs.view.artifacts import size_text
    from storage.working_copy import store_of

    layout = layout_of(storage)
    if reindex and not dry_run:
        click.echo(f"the index has {len(make_index(layout))} runs")
    found = find_garbage(layout, Rules(older_than_s, keep_last, name, copies))
    for line in found.stay:
        click.echo(line)
    for each in found.garbage:
        if not dry_run:
            each.remove()
        done = "would remove" if dry_run else "removed"
        click.echo(f"{done} {each.what}: {size_text(each.size_bytes)}")
    uploads = () if dry_run else store_of(layout.root).abort_uploads("", _ABANDONED_S)
    for upload in uploads:
        click.echo(f"ended the upload of {upload}")
    if not found.garbage and not uploads:
        click.echo("nothing to remove")
    else:
        total = size_text(sum(each.size_bytes for each in found.garbage))
        click.echo(f"{total} {'would be' if dry_run else 'are'} free")
