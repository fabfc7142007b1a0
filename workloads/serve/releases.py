"""Releases on Ray Serve: each is an application of its own, so that two can stand side by side.

An update starts the next release beside the one that serves. Once it is up, new requests go there;
the old one answers what it has begun, and is taken down. Should the new one not come up, it is
taken down, and nothing has happened to the old one.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.errors import RaysmithError
from jobs.spec.serve import ServeSpec
from storage.layout import AttemptLayout
from workloads.serve.answers import Refusal
from workloads.serve.channel import Head, Inbox, Lost, Part, parts_of
from workloads.serve.replica import Call, Replica
from workloads.serve.settings import Release, ReplicaSettings, environment, vllm_arguments

log = logging.getLogger(__name__)

_DEPLOYMENT = "replica"
_ERROR = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception): .+")
_LEADS_ON = re.compile(r"root cause|Error: Traceback|RayTaskError|ActorDiedError")
_POLL_S = 0.5
_METRICS_S = 5.0
_RETRY_AFTER_S = 1
_OVERTAKEN_S = 5.0
_FULL = "too many requests wait already"


@dataclass
class _Standing:
    """A release that is up."""

    release: Release
    handle: Any
    """Serve's handle to its replicas."""
    ongoing: int = 0
    is_ready: bool = True


@dataclass
class Releases:
    """The release that serves, and those on their way in or out."""

    spec: ServeSpec
    settings: ReplicaSettings
    inbox: Inbox
    attempt: AttemptLayout
    """Where replicas print to."""
    service: str
    """Begins the names of the Serve applications, for several services in a cluster."""
    _current: _Standing | None = None
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def release(self) -> Release:
        """What gets new requests."""
        return self._serving.release

    @property
    def models(self) -> tuple[str, ...]:
        """See `gate.Backend`."""
        return self._serving.release.models

    @property
    def is_ready(self) -> bool:
        """See `gate.Backend`."""
        return self._current is not None and self._current.is_ready

    @property
    def _serving(self) -> _Standing:
        assert self._current is not None, "a release is put up first"
        return self._current

    async def take_down_all(self) -> None:
        """Takes down every release, also those that a killed run has left."""
        for name in await asyncio.to_thread(_applications):
            if name.startswith(f"{self.service}-"):
                await asyncio.to_thread(_delete, name)

    async def put_up(self, release: Release) -> None:
        """Starts a release and gives it all new requests.

        Raises:
            RaysmithError: if it does not come up; what served before goes on.
        """
        handle = await asyncio.to_thread(self._deploy, release)
        try:
            await self._until_running(release)
        except BaseException:
            await asyncio.to_thread(_delete, self._application(release))
            raise
        old, self._current = self._current, _Standing(release, handle)
        if old:
            task = asyncio.create_task(self._take_down(old))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    @asynccontextmanager
    async def ask(self, call: Call) -> AsyncIterator[AsyncIterator[Head | bytes]]:
        """See `gate.Backend`."""
        standing = self._serving
        standing.ongoing += 1
        with self.inbox.expect() as (reply, queue):
            response = standing.handle.remote(call, reply)
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
                standing.ongoing -= 1

    async def metrics(self) -> list[str]:
        """See `gate.Backend`."""
        texts = await self._serving.handle.broadcast("metrics").results_async(
            timeout_s=_METRICS_S, return_exceptions=True
        )
        return [text for text in texts if isinstance(text, str)]

    async def watch(self) -> None:
        """Keeps `is_ready` true to what is there."""
        while True:
            await asyncio.sleep(2 * _POLL_S)
            standing = self._serving
            details = await asyncio.to_thread(_status, self._application(standing.release))
            deployment = details and details.deployments.get(_DEPLOYMENT)
            states = deployment.replica_states if deployment else {}
            standing.is_ready = states.get("RUNNING", 0) > 0

    async def drained(self) -> None:
        """Waits until nothing is under way."""
        while self._serving.ongoing or self._leaving:
            await asyncio.sleep(0.05)

    def _log(self, release: Release) -> Path:
        return self.attempt.replica_log(release.number)

    def _application(self, release: Release) -> str:
        return f"{self.service}-{release.number}"

    def _deploy(self, release: Release) -> Any:
        from ray import serve

        replicas, limits = self.spec.replicas, self.spec.limits
        deployment = serve.deployment(
            Replica,
            name=_DEPLOYMENT,
            ray_actor_options={
                "num_cpus": self.settings.cpus,
                "num_gpus": self.settings.gpus,
                "runtime_env": {"env_vars": environment(self.spec, self.settings)},
            },
            # A line for each request costs more than it tells: the gate counts them.
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
            max_ongoing_requests=limits.max_ongoing_requests,
            max_queued_requests=limits.max_queued_requests,
            max_constructor_retry_count=1,
            health_check_period_s=5,
            health_check_timeout_s=30,
            graceful_shutdown_timeout_s=self.spec.drain_timeout_s,
            graceful_shutdown_wait_loop_s=0.5,
            autoscaling_config={
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "initial_replicas": replicas.min,
                "target_ongoing_requests": replicas.target_ongoing_requests,
                "upscale_delay_s": replicas.upscale_delay_s,
                "downscale_delay_s": replicas.downscale_delay_s,
            },
        )
        target = serve.RunTarget(
            deployment.bind(vllm_arguments(self.spec, self.settings, release), self._log(release)),
            name=self._application(release),
            route_prefix=None,
        )
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        return handle.options(method_name="answer")

    async def _until_running(self, release: Release) -> None:
        deadline = asyncio.get_running_loop().time() + self.spec.start_timeout_s
        while True:
            details = await asyncio.to_thread(_status, self._application(release))
            state = details.status if details else "NOT_STARTED"
            if state == "RUNNING":
                return
            if state in ("DEPLOY_FAILED", "UNHEALTHY"):
                log_file = self._log(release)
                reason = _reason(details, log_file)
                raise RaysmithError(f"the engine did not start: {reason}", f"see {log_file}")
            if asyncio.get_running_loop().time() > deadline:
                raise RaysmithError(
                    f"the engine did not start within {self.spec.start_timeout_s:g} s",
                    "see that the cluster has room for the replicas, or raise start_timeout_s",
                )
            await asyncio.sleep(_POLL_S)

    async def _take_down(self, old: _Standing) -> None:
        try:
            async with asyncio.timeout(self.spec.drain_timeout_s):
                while old.ongoing:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("%d requests did not end in time", old.ongoing)
        await asyncio.to_thread(_delete, self._application(old.release))


def last_error(text: str) -> str | None:
    """The error that a log or a traceback ends with, on one line."""
    found = (match[0] for line in reversed(text.splitlines()) if (match := _ERROR.search(line)))
    # Of those that only lead to others, vLLM's says `See root cause above`.
    return next((each for each in found if not _LEADS_ON.search(each)), None)


def _applications() -> dict[str, Any]:
    from ray import serve

    return dict(serve.status().applications)


def _status(application: str) -> Any:
    return _applications().get(application)


def _delete(application: str) -> None:
    from ray import serve

    serve.delete(application)


def _reason(details: Any, log_file: Path) -> str:
    """Why replicas did not start: what they printed, or else what Serve says of it."""
    messages = [deployment.message for deployment in details.deployments.values()]
    told = next((text for text in messages if text), details.message)
    log = log_file.read_text(encoding="utf-8", errors="replace") if log_file.is_file() else ""
    return last_error(log) or last_error(told) or told


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
