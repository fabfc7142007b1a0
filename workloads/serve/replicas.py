"""The replicas of one release: how Serve is told to make them, and how the gate asks them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.spec.serve import ServeSpec
from workloads.serve.answers import Refusal
from workloads.serve.channel import Head, Inbox, Lost, Part, parts_of
from workloads.serve.replica import Call, Replica
from workloads.serve.settings import ReplicaSettings, environment

log = logging.getLogger(__name__)

DEPLOYMENT = "replica"
"""What Serve calls the replicas of an application."""

WATCH_S = 1.0
_METRICS_S = 5.0
_RETRY_AFTER_S = 1
_OVERTAKEN_S = 5.0
_FULL = "too many requests wait already"


def replica_application(
    spec: ServeSpec,
    settings: ReplicaSettings,
    arguments: Callable[[], Sequence[str]],
    log_file: Path | None,
    **options: Any,
) -> Any:
    """What Serve starts, keeps alive and scales as the spec says; see `Replica` for the rest.

    `options` are further ones of the deployment.
    """
    from ray import serve

    replicas, limits = spec.replicas, spec.limits
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        ray_actor_options={
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus,
            "runtime_env": {"env_vars": environment(spec, settings)},
        },
        # A line for each request costs more than it tells: the gate counts them.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        max_ongoing_requests=limits.max_ongoing_requests,
        max_queued_requests=limits.max_queued_requests,
        max_constructor_retry_count=1,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=spec.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        autoscaling_config={
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "initial_replicas": replicas.min,
            "target_ongoing_requests": replicas.target_ongoing_requests,
            "upscale_delay_s": replicas.upscale_delay_s,
            "downscale_delay_s": replicas.downscale_delay_s,
        },
        **options,
    )
    return deployment.bind(arguments, log_file)


@dataclass
class Replicas:
    """Those of one Serve application; a `gate.Backend`."""

    application: str
    handle: Any
    """Serve's handle to their method `answer`."""
    inbox: Inbox
    models: tuple[str, ...]
    """The names that clients may ask for, the model's own first."""
    ongoing: int = 0
    is_ready: bool = True
    _ending: set[asyncio.Task[None]] = field(default_factory=set)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[AsyncIterator[Head | bytes]]:
        """See `gate.Backend`."""
        self.ongoing += 1
        with self.inbox.expect() as (reply, queue):
            response = self.handle.remote(call, reply)
            ending = asyncio.create_task(_tell_end(response, queue))
            parts = _Parts(queue)
            try:
                yield parts.told()
            finally:
                if parts.is_over:
                    # The call itself ends a moment later.
                    self._ending.add(ending)
                    ending.add_done_callback(self._ending.discard)
                else:
                    response.cancel()
                    ending.cancel()
                self.ongoing -= 1

    async def metrics(self) -> list[str]:
        """See `gate.Backend`."""
        texts = await self.handle.broadcast("metrics").results_async(
            timeout_s=_METRICS_S, return_exceptions=True
        )
        return [text for text in texts if isinstance(text, str)]

    async def watch(self) -> None:
        """Keeps `is_ready` true to what is there."""
        while True:
            await self.look()
            await asyncio.sleep(WATCH_S)

    async def ready(self) -> bool:
        """See `gate.Backend`."""
        if not self.is_ready:
            # Serve may have started one since the last look.
            await self.look()
        return self.is_ready

    async def look(self) -> None:
        """Brings `is_ready` up to date."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            details = await asyncio.to_thread(status, self.application)
        except (RayError, RayServeException) as error:
            # Serve's controller is away; replicas answer meanwhile.
            log.warning("Serve does not say how it stands: %s", error)
            return
        if details is None:
            self.is_ready = False
        # Serve lists none while a config stands that could not be built; what was there goes on.
        elif deployment := details.deployments.get(DEPLOYMENT):
            self.is_ready = deployment.replica_states.get("RUNNING", 0) > 0


def applications() -> dict[str, Any]:
    """What Serve says of each of its applications, by name."""
    from ray import serve

    return dict(serve.status().applications)


def status(application: str) -> Any:
    """What Serve says of an application; None where there is none of that name."""
    return applications().get(application)


async def _tell_end(response: Any, queue: asyncio.Queue[Part | Lost]) -> None:
    """Passes on how the call ended, should its answer not come to an end."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import BackPressureError, RayServeException

    try:
        await response
        # It may overtake the answer's end, which is on another connection.
        await asyncio.sleep(_OVERTAKEN_S)
        queue.put_nowait(Lost("the answer was cut off"))
    except BackPressureError:
        queue.put_nowait(Lost(_FULL))
    except (RayError, RayServeException) as error:
        log.warning("a call of a replica failed: %s", error)
        queue.put_nowait(Lost("the replica that worked on this request was lost"))


class _Parts:
    """The parts of an answer, with what can go wrong as a refusal."""

    def __init__(self, queue: asyncio.Queue[Part | Lost]) -> None:
        self._queue = queue
        self.is_over = False

    async def told(self) -> AsyncIterator[Head | bytes]:
        """The parts until the end."""
        try:
            async for part in parts_of(self._queue):
                yield part
        except Lost as lost:
            self.is_over = True
            if str(lost) == _FULL:
                again = {"retry-after": str(_RETRY_AFTER_S)}
                raise Refusal(429, _FULL, headers=again) from None
            raise Refusal(502, str(lost)) from None
        self.is_over = True
