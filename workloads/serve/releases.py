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
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jobs.errors import RaysmithError
from jobs.spec.serve import ServeSpec
from storage.layout import AttemptLayout
from workloads.serve.channel import Head, Inbox
from workloads.serve.replica import Call
from workloads.serve.replicas import WATCH_S, Replicas, applications, replica_application, status
from workloads.serve.settings import Release, ReplicaSettings, vllm_arguments

log = logging.getLogger(__name__)

_ERROR = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception): .+")
_LEADS_ON = re.compile(r"root cause|Error: Traceback|RayTaskError|ActorDiedError")
_POLL_S = 0.5


@dataclass
class _Standing:
    """A release that is up."""

    release: Release
    replicas: Replicas


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

    @property
    def release(self) -> Release:
        """What gets new requests."""
        return self._serving.release

    @property
    def models(self) -> tuple[str, ...]:
        """See `gate.Backend`."""
        return self._serving.release.models

    async def ready(self) -> bool:
        """See `gate.Backend`."""
        return self._current is not None and await self._current.replicas.ready()

    @property
    def _serving(self) -> _Standing:
        assert self._current is not None, "a release is put up first"
        return self._current

    async def take_down_all(self) -> None:
        """Takes down every release, also those that a killed run has left."""
        for name in await asyncio.to_thread(applications):
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
        old, self._current = self._current, _Standing(release, self._replicas(release, handle))
        if old:
            task = asyncio.create_task(self._take_down(old))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def ask(self, call: Call) -> AbstractAsyncContextManager[AsyncIterator[Head | bytes]]:
        """See `gate.Backend`."""
        return self._serving.replicas.ask(call)

    async def metrics(self) -> list[str]:
        """See `gate.Backend`."""
        return await self._serving.replicas.metrics()

    async def watch(self) -> None:
        """Keeps up with which replicas are there."""
        while True:
            await asyncio.sleep(WATCH_S)
            await self._serving.replicas.look()

    async def drained(self) -> None:
        """Waits until nothing is under way."""
        while self._serving.replicas.ongoing or self._leaving:
            await asyncio.sleep(0.05)

    def _replicas(self, release: Release, handle: Any) -> Replicas:
        return Replicas(self._application(release), handle, self.inbox, release.models)

    def _log(self, release: Release) -> Path:
        return self.attempt.replica_log(release.number)

    def _application(self, release: Release) -> str:
        return f"{self.service}-{release.number}"

    def _deploy(self, release: Release) -> Any:
        from ray import serve

        arguments = partial(vllm_arguments, self.spec, self.settings, release)
        target = serve.RunTarget(
            replica_application(self.spec, self.settings, arguments, self._log(release)),
            name=self._application(release),
            route_prefix=None,
        )
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        return handle.options(method_name="answer")

    async def _until_running(self, release: Release) -> None:
        deadline = asyncio.get_running_loop().time() + self.spec.start_timeout_s
        while True:
            details = await asyncio.to_thread(status, self._application(release))
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
                while old.replicas.ongoing:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("%d requests did not end in time", old.replicas.ongoing)
        await asyncio.to_thread(_delete, self._application(old.release))


def last_error(text: str) -> str | None:
    """The error that a log or a traceback ends with, on one line."""
    found = (match[0] for line in reversed(text.splitlines()) if (match := _ERROR.search(line)))
    # Of those that only lead to others, vLLM's says `See root cause above`.
    return next((each for each in found if not _LEADS_ON.search(each)), None)


def _delete(application: str) -> None:
    from ray import serve

    serve.delete(application)


def _reason(details: Any, log_file: Path) -> str:
    """Why replicas did not start: what they printed, or else what Serve says of it."""
    messages = [deployment.message for deployment in details.deployments.values()]
    told = next((text for text in messages if text), details.message)
    log = log_file.read_text(encoding="utf-8", errors="replace") if log_file.is_file() else ""
    return last_error(log) or last_error(told) or told
