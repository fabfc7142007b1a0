"""The `raysmith` command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cluster_cli import doctor, drive, submit
from jobs.elsewhere import elsewhere
from jobs.errors import ExitCode, RaysmithError, SpecError, UserError
from jobs.files_cli import init, schema
from jobs.gc_cli import gc
from jobs.life_cli import list_runs, resume, retry, rm
from jobs.look_cli import artifacts, diff, events, logs, status
from jobs.options import (
    EXIT_CODES,
    address_option,
    backend_option,
    current_profile,
    force_stage_option,
    layout_of,
    new_option,
    no_cache_option,
    profile_option,
    resolve_job,
    run_argument,
    set_option,
    ship_code_option,
    spec_argument,
    storage_explanation,
    storage_option,
)
from jobs.render_cli import render

if TYPE_CHECKING:
    from jobs.plan.explain import Explanation
    from storage.layout import RunLayout


class _Program(click.Group):
    """Turns our errors into a message and an exit code, for every command alike."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RaysmithError as error:
            click.echo(_report(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(ExitCode.INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            raise  # the reader, such as `head`, has enough; click ends quietly
        except Exception:
            click.echo("this is a bug in raysmith: please report it with what follows", err=True)
            raise


def _report(error: RaysmithError) -> str:
    if not isinstance(error, SpecError):
        return f"error: {error}"
    count = len(error.problems)
    return f"{error}\n{count} {'problem' if count == 1 else 'problems'}"


@click.group(
    cls=_Program, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="raysmith", prog_name="raysmith")
def cli() -> None:
    """Runs LLM post-training jobs on Ray, each told by one YAML file."""


@cli.command()
@spec_argument
@set_option
@profile_option
def validate(spec: Path, overrides: tuple[str, ...]) -> None:
    """Check SPEC, its datasets and its models. Says everything that is wrong at once."""
    from jobs.plan.text import summary
    from workloads.check import check

    loaded, resolved = resolve_job(spec, overrides)
    for note in check(loaded, resolved).notes:
        click.echo(note)
    click.echo(f"{spec}: valid ({summary(resolved)})")


@cli.command()
@spec_argument
@set_option
@storage_option
@profile_option
@click.option("--explain", "path", metavar="PATH", help="Show one value, and where it comes from.")
@address_option
@no_cache_option
@force_stage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    storage: str,
    path: str | None,
    address: str | None,
    no_cache: bool,
    force_stages: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what running SPEC would do. Every value is resolved, and nothing is started.

    What does not fit is refused, with numbers: on the cluster at --address or of the profile, on
    the profile's pods, else on this machine.
    """
    from jobs.plan.explain import explain
    from jobs.plan.forced import forced_stages
    from jobs.plan.text import plan_json, plan_text

    loaded, resolved = resolve_job(spec, overrides, storage)
    if path == "storage":
        click.echo(_explanation_text(path, storage_explanation(storage), as_json=as_json))
    elif path:
        click.echo(_explanation_text(path, explain(loaded, resolved, path), as_json=as_json))
    else:
        from jobs.capacity import memory_lines, refuse_where_it_runs
        from jobs.runs import actions
        from workloads.check import check

        checked = check(loaded, resolved)
        forced = forced_stages(resolved, force_stages, no_cache=no_cache)
        name, digest = resolved.name, checked.digest
        nexts = actions(layout_of(storage), name, digest, checked.keys, forced)
        if as_json:
            click.echo(plan_json(resolved, nexts))
            return
        click.echo(plan_text(resolved, nexts))
        for line in (*checked.notes, *memory_lines(checked.memory, address)):
            click.echo(line)
        for note in refuse_where_it_runs(resolved, address):
            click.echo(note)


def _explanation_text(path: str, found: Explanation, *, as_json: bool) -> str:
    if as_json:
        content = {"path": path, "value": found.value, "layer": found.layer, "origin": found.text}
        return json.dumps(content, indent=2, ensure_ascii=False)
    value = json.dumps(found.value, ensure_ascii=False)
    origin = found.text if found.layer in ("default", "derived") else f"{found.layer}: {found.text}"
    return f"{path} = {value}\n  {origin}"


@cli.command()
@spec_argument
@set_option
@storage_option
@profile_option
@click.option("--address", metavar="ADDRESS", help="A running Ray cluster; else one of our own.")
@ship_code_option
@click.option("--dashboard", is_flag=True, help="Start Ray's dashboard, on this machine only.")
@click.option("--no-serve", is_flag=True, help="Leave serve stages out, and what needs them.")
@no_cache_option
@force_stage_option
@new_option
def run(
    spec: Path,
    overrides: tuple[str, ...],
    storage: str,
    address: str | None,
    ship_code: bool,
    dashboard: bool,
    no_serve: bool,
    no_cache: bool,
    force_stages: tuple[str, ...],
    new: bool,
) -> None:
    """Run SPEC, stage by stage. The same command goes on with a run that was cut off.

    Where that run is at work already, its logs are followed to its end.
    """
    from cluster.fingerprint import check_expected
    from jobs.asked import asked_for
    from jobs.plan.forced import forced_stages
    from jobs.plan.unserved import without_services
    from jobs.run import run_job

    check_expected(os.environ)
    loaded, resolved = resolve_job(spec, overrides, storage)
    if no_serve:
        resolved = without_services(resolved)
        if not resolved.stages:
            raise UserError(f"{spec} has nothing but services", "leave --no-serve out")
    address = address or os.environ.get("RAY_ADDRESS")
    forced = forced_stages(resolved, force_stages, no_cache=no_cache)
    raise SystemExit(
        run_job(
            loaded,
            resolved,
            address,
            dashboard,
            ship_code,
            forced=forced,
            new=new,
            attaches=True,
            asked=asked_for(loaded, overrides, current_profile(), no_serve=no_serve),
        )
    )


@cli.command()
@run_argument
@storage_option
@profile_option
@click.option("--no-wait", is_flag=True, help="Do not wait for the end.")
@click.option("--now", is_flag=True, help="End it at once: what is not committed yet is lost.")
@address_option
@backend_option
def stop(
    run: str, storage: str, no_wait: bool, now: bool, address: str | None, backend: str | None
) -> None:
    """Ask a run to stop. Training commits a checkpoint first, a service ends its answers.

    Asked a second time, it ends at once, as with --now.
    """
    from jobs.service import stop as stop_run
    from jobs.view.runs import shown_state

    if there := elsewhere(address, backend):
        there.stop(run, wait=not no_wait)
        return

    status = stop_run(_run_layout(run, storage), wait=not no_wait, now=now)
    state = "asked to stop" if no_wait else shown_state(status)
    click.echo(f"{status.full_name}: {state}")


@cli.command()
@run_argument
@click.option("--model", required=True, metavar="REF", help="What to serve, as in a spec.")
@click.option("--stage", help="The serve stage, where the run has several.")
@storage_option
@profile_option
def update(run: str, model: str, stage: str | None, storage: str) -> None:
    """Serve another model in the place of a run's, with no request lost.

    The old one serves until the new one is up, and goes on if that fails.
    """
    from jobs.service import update as update_service

    outcome = update_service(_run_layout(run, storage), model, stage, click.echo)
    if not outcome.done:
        raise RaysmithError(outcome.message, "mend the cause; the old model goes on serving")
    click.echo(outcome.message)


def _run_layout(run: str, storage: str) -> RunLayout:
    from jobs.runs import resolve_run

    return resolve_run(layout_of(storage), run)


@cli.command()
@click.argument("target", default="", metavar="[RUN_OR_URL]")
@storage_option
@profile_option
@click.option("--model", help="The model to talk to; the service's first by default.")
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer.")
@click.option(
    "--api-key-env",
    default="RAYSMITH_API_KEY",
    show_default=True,
    metavar="NAME",
    help="The environment variable that holds the API key.",
)
def chat(
    target: str,
    storage: str,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    api_key_env: str,
) -> None:
    """Talk to the model that a run serves, or to any OpenAI-compatible API.

    RUN is as in `status`; a URL is such as http://127.0.0.1:8000. From a pipe, each line is a
    question, and answers go to standard output.
    """
    from jobs.chat.address import find_address
    from jobs.chat.run import chat as talk

    key = _api_key(api_key_env)
    address = find_address(target, layout_of(storage))
    given = {"temperature": temperature, "max_tokens": max_tokens}
    sampling = {name: value for name, value in given.items() if value is not None}
    talk(address, key, model, system, sampling)


def _api_key(variable: str) -> str | None:
    named = click.get_current_context().get_parameter_source("api_key_env")
    key = os.environ.get(variable) or None
    if key is None and named is click.core.ParameterSource.COMMANDLINE:
        raise UserError(f"the environment variable {variable} is not set", f"export {variable}=...")
    return key


for _command in (
    submit,
    doctor,
    drive,
    render,
    artifacts,
    diff,
    events,
    gc,
    init,
    list_runs,
    logs,
    resume,
    retry,
    rm,
    schema,
    status,
):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line, and ends the process with one of `jobs.errors.ExitCode`."""
    cli()


if __name__ == "__main__":
    main()
