"""The commands that write files to start from: schema, init."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.errors import RaysmithError, UserError

DEFAULT_SPEC = "job.yaml"

_STARTER = Path(__file__).parent / "examples" / "self-cognition.yaml"


@click.command()
@click.argument("kind", type=click.Choice(["job", "profile"]), default="job")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it to this file."
)
@click.option(
    "--check",
    "checked",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Exit with 1 unless this file holds the schema.",
)
def schema(kind: str, output: Path | None, checked: Path | None) -> None:
    """Print the JSON Schema of job files, or of profiles, for editors and checks."""
    from jobs.json_schema import json_schema

    text = json_schema(kind)
    if checked:
        if not checked.is_file() or checked.read_text(encoding="utf-8") != text:
            raise RaysmithError(
                f"{checked} is not the schema of the classes",
                f"raysmith schema {kind} --output {checked}",
            )
    elif output:
        _write(output, text)
    else:
        click.echo(text, nl=False)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_SPEC)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def init(file: Path, force: bool) -> None:
    """Write a commented spec to start from. It trains and merges on this machine."""
    if file.exists() and not force:
        raise UserError(
            f"{file} exists already", f"name another file, or: raysmith init {file} --force"
        )
    _write(file, _STARTER.read_text(encoding="utf-8"))
    click.echo(f"wrote {file}; next: raysmith plan {file}")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{file} can't be written: {error.strerror}", "name another file"
        ) from error
