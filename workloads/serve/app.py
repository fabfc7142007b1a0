"""A serve stage as an application that Ray Serve starts by itself, from its config file.

    applications:
      - name: support-bot
        import_path: workloads.serve.app:build
        route_prefix: /
        args: {job: support-bot, storage: /mnt/runs, stage: serve, spec: {kind: serve, ...}}

KubeRay's RayService hands such a config to Serve, and so does `serve deploy`. No run drives the
service: what it serves is what a run of the job has left in the storage.

    client -> Serve's proxy on each node -> a gate -> Serve's handle -> a replica's queue -> vLLM

The gate and the replicas are those of `raysmith run`. Every node needs the storage, and the
secrets that the spec names in its environment. A config with other `args` has Serve start new
gates and replicas beside the old ones, which end when those are up and what they had begun is
answered; `run` chooses the artifacts. Should the new ones not come up, the old ones stay.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ray
from pydantic import Field, ValidationError
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from jobs.errors import RaysmithError, UserError
from jobs.plan.demand import DEFAULT_CPUS
from jobs.plan.derive import resolved_serve
from jobs.plan.graph import inputs
from jobs.spec.fields import NAME_PATTERN, Spec
from jobs.spec.serve import ServeSpec
from storage.layout import Layout
from storage.working_copy import root_of
from workloads.models.local import localize
from workloads.serve.answers import Send
from workloads.serve.bodies import Receive, Scope
from workloads.serve.channel import Inbox
from workloads.serve.gate import Gate
from workloads.serve.keys import open_keys
from workloads.serve.newest import newest_artifacts
from workloads.serve.replicas import Replicas, replica_application
from workloads.serve.settings import (
    ONE_EVENT_LOOP,
    Origin,
    ReplicaSettings,
    first_release,
    vllm_arguments,
)

Name = Annotated[str, Field(pattern=NAME_PATTERN)]

_UNBOUNDED = 1_000_000
"""The gate itself bounds what waits, so that it can say so, and answer for its health meanwhile."""

_NOT_HERE = 1008
"""The code that a WebSocket is closed with which is against the rules."""


class ServiceSpec(Spec):
    """The `args` of the application."""

    job: Name
    """The job's name, under which its runs lie in the storage."""
    storage: str
    """The storage root, as every node sees it."""
    stage: Name
    """The stage's name."""
    spec: ServeSpec
    """The stage. `host` and `port` mean nothing here: Serve's proxies listen."""
    run: Name | None = None
    """The run whose artifacts are served. When absent: the newest in which all stages that this one
    needs have ended well, as the storage is when the config is applied."""
    seed: int = 42
    """The job's seed."""


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application that the arguments of a Serve config, a `ServiceSpec`, stand for.

    Raises:
        RayServeException: if they are wrong, or what is to be served is not there. Serve puts its
            message into the application's status.
    """
    try:
        return _application(ServiceSpec.model_validate(dict(args)))
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RayServeException(f"the args are wrong: {found}") from None
    except RaysmithError as error:
        # Of others Serve would show the traceback.
        raise RayServeException(str(error)) from error


def _application(service: ServiceSpec) -> serve.Application:
    spec = resolved_serve(service.spec, service.job)
    if spec.auth is None:
        raise UserError(
            f"the stage {service.stage!r} has no auth, and Serve's proxies can be reached from "
            "other machines",
            'add auth: {api_key: "${secret:SERVE_API_KEY}"}, and that variable to the environment '
            "of every node",
        )
    made = _artifacts(service)
    cpus = spec.cpus_per_replica or DEFAULT_CPUS
    settings = ReplicaSettings(cpus, cpus, spec.gpus_per_replica or 0, service.seed)
    replicas = replica_application(
        spec,
        settings,
        partial(_arguments, spec, settings, made),
        None,
        # New ones come up beside the old ones, which else would leave room for them first.
        max_surge_percent=100,
    )
    at_least = min(2, spec.replicas.max)
    gate = serve.deployment(
        serve.ingress()(Ingress),
        name="gate",
        # Any node has room for it, however the replicas fill them.
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": dict(ONE_EVENT_LOOP)}},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        max_ongoing_requests=_UNBOUNDED,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=100,
        # One for what an engine has at once; two where there are several, for one may be lost.
        autoscaling_config={
            "min_replicas": at_least,
            "max_replicas": spec.replicas.max,
            "initial_replicas": at_least,
            "target_ongoing_requests": spec.limits.max_ongoing_requests,
        },
    )
    return gate.bind(spec, replicas)


def _artifacts(service: ServiceSpec) -> dict[str, Path]:
    """The folders of what the stage takes of others, by field."""
    taken = inputs(service.spec)
    needed = tuple(dict.fromkeys((*taken.values(), *service.spec.after)))
    if not needed:
        return {}
    layout = Layout(root_of(service.storage))
    found = newest_artifacts(layout, service.job, needed, service.run)
    return {field: found[stage] for field, stage in taken.items()}


def _arguments(
    spec: ServeSpec, settings: ReplicaSettings, made: Mapping[str, Path]
) -> Sequence[str]:
    """What vLLM is told, on the machine of a replica; brings the model there."""
    origin = Origin((str(Path.cwd()),), partial(localize, hub_token=spec.hub_token))
    return vllm_arguments(spec, settings, first_release(spec, made, origin))


class Ingress:
    """One of the gates, as the class of a Serve deployment: Serve's proxies call it."""

    async def __init__(  # type: ignore[misc]  # as Serve allows
        self, spec: ServeSpec, replicas: DeploymentHandle
    ) -> None:
        assert spec.served_model_name, "resolved"
        keys = open_keys(spec.auth, (str(Path.cwd()),), os.environ)
        inbox = Inbox()
        self._listener = await inbox.listen(ray.util.get_node_ip_address())
        self._replicas = Replicas(
            serve.get_replica_context().app_name,
            replicas.options(method_name="answer"),
            inbox,
            (spec.served_model_name, *spec.adapters),
            is_ready=False,
        )
        self._application = Application(Gate(self._replicas, keys, spec.limits))
        self._watch = asyncio.create_task(self._replicas.watch())

    def __serve_build_asgi_app__(self) -> Any:
        return self._application

    async def check_health(self) -> None:
        """Raises when the gate no longer knows of its replicas; Serve asks, and replaces it."""
        if self._watch.done():
            self._watch.result()


@dataclass(frozen=True)
class Application:
    """The gate as an ASGI application of its own, which besides HTTP is spoken to of its life."""

    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes requests on, and refuses what else a client may open."""
        if scope["type"] == "http":
            await self.gate(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _NOT_HERE})
        else:
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
