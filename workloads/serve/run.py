"""A serve stage: puts replicas up, opens the gate, and answers until it is asked to end.

The gate runs in this process, beside the run's controller; replicas run on the cluster.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from jobs.errors import RaysmithError, UserError
from jobs.spec.serve import ServeSpec, is_loopback
from storage.durable import write_atomic
from workloads.context import StageContext, StageResult
from workloads.models.resolve import ModelSource, resolve_model
from workloads.models.taken import model_folder
from workloads.serve.channel import Inbox
from workloads.serve.gate import Gate
from workloads.serve.keys import Keys, open_keys
from workloads.serve.releases import Releases
from workloads.serve.settings import Origin, Release, ReplicaSettings, first_release, make_release
from workloads.serve.updates import Outcome, Update, answer, next_request

_POLL_S = 0.2
_CLOSE_S = 5


def run(context: StageContext) -> StageResult:
    """Serves until it is asked to stop.

    Raises:
        UserError: if the port is taken, or a key is missing.
        RaysmithError: if the engine does not start.
    """
    spec = context.stage.spec
    assert isinstance(spec, ServeSpec)
    from uvicorn.loops.auto import auto_loop_factory

    clock = time.monotonic()
    keys = open_keys(spec.auth, context.base_folders, os.environ)
    with bind(spec.host, spec.port) as listener:
        release = first_release(spec, context.inputs, _origin(spec, context))
        settings = _replica_settings(spec, context)
        # uvloop where it is installed, as it is beside vLLM.
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            ready = runner.run(_serve(context, settings, release, keys, listener))
    timings = {"start": ready - clock, "serve": time.monotonic() - ready}
    return StageResult(finished=True, timings=timings)


async def _serve(
    context: StageContext,
    settings: ReplicaSettings,
    release: Release,
    keys: Keys | None,
    listener: socket.socket,
) -> float:
    """Returns when the service was ready."""
    import uvicorn

    from workloads.serve.http_protocol import BoundedProtocol

    spec = context.stage.spec
    assert isinstance(spec, ServeSpec)
    inbox = Inbox()
    owner = context.owner
    service = f"{owner.run_id}-{owner.stage}"
    releases = Releases(spec, settings, inbox, context.attempt, service)
    await asyncio.to_thread(_start_serve)
    answers = await inbox.listen(context.cluster.own_address)
    try:
        await releases.take_down_all()
        while left := next_request(context.layout.updates):
            answer(context.layout.updates, left, Outcome(False, "the service had ended"))
        context.note(f"starting {release.name}: {release.model}")
        await releases.put_up(release)
        gate = Gate(releases, keys, spec.limits)
        server = uvicorn.Server(
            uvicorn.Config(
                gate, http=BoundedProtocol, lifespan="off", ws="none", log_config=None,
                access_log=False, server_header=False, proxy_headers=False,
                timeout_graceful_shutdown=_CLOSE_S,
            )
        )  # fmt: skip
        # Signals are the controller's.
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        watching = asyncio.create_task(releases.watch())
        ready = time.monotonic()
        _announce(context, spec, listener, release)
        try:
            await _until_stopped(context, releases, watching)
        finally:
            await _drain(context, gate, releases)
            watching.cancel()
            server.should_exit = True
            await serving
            context.attempt.service_json.unlink(missing_ok=True)
    finally:
        answers.close()
        await releases.take_down_all()
    return ready


async def _until_stopped(
    context: StageContext, releases: Releases, watching: asyncio.Task[None]
) -> None:
    """Waits for the request to stop, and sees to updates meanwhile."""
    folder = context.layout.updates
    updating: asyncio.Task[None] | None = None
    while not context.layout.stop_request.exists():
        await asyncio.wait({watching}, timeout=_POLL_S)
        if watching.done():
            watching.result()
        if (updating is None or updating.done()) and (wanted := next_request(folder)):
            updating = asyncio.create_task(_update(context, releases, wanted))
    if updating:
        updating.cancel()
        with suppress(asyncio.CancelledError):
            await updating


async def _update(context: StageContext, releases: Releases, wanted: Update) -> None:
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    spec, current = releases.spec, releases.release
    try:
        source = resolve_model(wanted.model, context.base_folders)
        adapters = {
            name: ModelSource("folder", folder)
            for name, folder in current.adapters.items()
            if name != current.name
        }
        release = await asyncio.to_thread(
            make_release, current.number + 1, current.name, source, adapters, _origin(spec, context)
        )
        context.note(f"updating to {wanted.model}")
        await releases.put_up(release)
    except (RaysmithError, RayError, RayServeException, OSError) as error:
        outcome = Outcome(False, f"the update failed, and {current.model} is served on: {error}")
    else:
        outcome = Outcome(True, f"{release.name} is now {release.model}")
    context.note(outcome.message)
    context.event("update", model=wanted.model, done=outcome.done, message=outcome.message)
    answer(context.layout.updates, wanted, outcome)


async def _drain(context: StageContext, gate: Gate, releases: Releases) -> None:
    gate.is_draining = True
    try:
        async with asyncio.timeout(releases.spec.drain_timeout_s):
            await releases.drained()
    except TimeoutError:
        context.note("some requests did not end in time, and were given up")


def _announce(
    context: StageContext, spec: ServeSpec, listener: socket.socket, release: Release
) -> None:
    host, port = listener.getsockname()[:2]
    shown = host if is_loopback(host) else "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    service = {"url": url, "models": release.models, "authenticated": spec.auth is not None}
    write_atomic(context.attempt.service_json, (json.dumps(service, indent=2) + "\n").encode())
    context.event("serving", **service)
    key = " -H 'Authorization: Bearer '\"$KEY\"" if spec.auth else ""
    context.note(f"serving {', '.join(release.models)} at {url}")
    body = f'{{"model": "{release.name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    context.note(
        f"ask it: curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
        f"-d '{body}'"
    )


def _start_serve() -> None:
    from ray import serve

    # What Serve says goes to the stage's log, not between the lines that a person watches.
    logger = logging.getLogger("ray.serve")
    logger.handlers.clear()
    logger.propagate = True
    # The gate is the only listener.
    serve.start(proxy_location="Disabled")


@contextmanager
def _no_signals() -> Any:
    yield


def bind(host: str, port: int) -> socket.socket:
    """A socket at the spec's address, which refuses connections until the gate listens on it.

    Raises:
        UserError: if the port is taken, or the address is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        # Else a port is taken for a minute after the service that had it has ended.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(
            f"{host}:{port} can't be served at: {error.strerror or error}",
            "choose another port, or 0 for a free one; see who has it with: ss -ltnp",
        ) from error
    return listener


def _origin(spec: ServeSpec, context: StageContext) -> Origin:
    return Origin(context.base_folders, partial(model_folder, hub_token=spec.hub_token))


def _replica_settings(spec: ServeSpec, context: StageContext) -> ReplicaSettings:
    gpus = spec.gpus_per_replica or 0
    own = spec.cpus_per_replica
    return ReplicaSettings(
        threads=own or context.cluster.cpus_per_worker(spec.replicas.max),
        # With room for those that an update starts beside them.
        cpus=own or context.cluster.cpus_per_worker(spec.processes_at_once),
        gpus=gpus,
        seed=context.seed,
    )
