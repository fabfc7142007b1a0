"""Finds the API that `raysmith chat` is to speak to: an address, or a run that serves."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from jobs.errors import UserError
from jobs.observed import RunStatus, is_live, read_service, read_status
from jobs.runs import resolve_run
from jobs.state import StageState
from storage.layout import Layout, RunLayout

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):\d{1,5}(/.*)?")
_VERSION = re.compile(r"/v\d+[a-z0-9]*(/|$)")


def find_address(text: str, layout: Layout) -> str:
    """The API at an address, or that of a run: a run's id, name, `name/id` or folder.

    What comes back ends with the API's version, as in `http://127.0.0.1:8000/v1`.

    Raises:
        UserError: the address is not one, there is no such run, or it serves nothing.
    """
    if _SCHEME.match(text):
        return _api_url(text)
    if _HOST_AND_PORT.fullmatch(text):
        return _api_url(f"http://{text}")
    return _address_of_run(resolve_run(layout, text))


def _api_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{text!r} is no address: {error}", _EXAMPLE) from error
    if "@" in parts.netloc:
        raise UserError(
            "the address holds a user or a password",
            "put the API key into RAYSMITH_API_KEY, or name the variable: --api-key-env NAME",
        )
    if scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UserError(f"{text!r} is no address of an API", _EXAMPLE)
    path = parts.path.rstrip("/")
    if not _VERSION.search(path):
        path += "/v1"
    return f"{scheme}://{parts.netloc}{path}"


_EXAMPLE = "give an http or https address, such as http://127.0.0.1:8000"


def _address_of_run(run: RunLayout) -> str:
    status = read_status(run)
    stages = [stage for stage in status.stages if stage.kind == "serve"]
    name = f"run {status.full_name}"
    if not stages:
        raise UserError(f"{name} serves nothing: it has no stage of kind serve", _how(status))
    live = is_live(status)
    for stage in stages:
        if live and stage.state is StageState.RUNNING:
            service = read_service(run.stage(stage.name).attempt(stage.attempt).service_json)
            if service is not None:
                return _api_url(service.url)
    if live:
        raise UserError(
            f"{name} does not serve yet",
            f"wait for its stage {stages[0].name}: raysmith logs {status.run_id} --follow",
        )
    raise UserError(
        f"{name} no longer serves",
        "serve again with the command that began it: `raysmith run` and the same spec",
    )


def _how(status: RunStatus) -> str:
    models = [s.name for s in status.stages if s.kind == "merge"] or [
        s.name for s in status.stages if s.kind in ("sft", "grpo")
    ]
    model = f"${{stages.{models[-1]}.model}}" if models else "MODEL"
    stage = f'serve: {{kind: serve, model: "{model}"}}'
    return f"add a stage to its spec and run it again, or give an address:\n    {stage}"
