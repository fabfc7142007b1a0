"""A replica: one vLLM engine and vLLM's own OpenAI application, called without a network."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workloads.process_log import print_to
from workloads.serve.channel import Head, Kind, Outboxes, Reply

log = logging.getLogger(__name__)

_WATCH_S = 0.5

_ENGINE_DIED = 70


@dataclass(frozen=True)
class Call:
    """A request that has passed the gate."""

    method: str
    path: str
    body: bytes = b""


class Replica:
    """The class of the Serve deployment. Its methods are called through Serve's handle."""

    async def __init__(  # type: ignore[misc]  # as Serve allows
        self, arguments: Callable[[], Sequence[str]], log_file: Path | None
    ) -> None:
        """`arguments` are what `vllm serve` would be given, found out on this machine."""
        if log_file and log_file.parent.is_dir():
            print_to(log_file)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        given = list(await asyncio.to_thread(arguments))
        try:
            args = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
        except SystemExit as error:
            # Serve would know no more than that the actor died.
            raise ValueError(f"vLLM does not take these arguments: {given}") from error
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        tasks = await self._engine.get_supported_tasks()
        self._app: Any = build_app(
            args, supported_tasks=tasks, model_config=self._engine.model_config
        )
        await init_app_state(self._engine, self._app.state, args, supported_tasks=tasks)
        # vLLM's handlers ask the server that it runs in by itself to end when the engine dies.
        self._app.state.server = SimpleNamespace()
        self._outboxes = Outboxes()
        self._watch = asyncio.create_task(self._end_with_engine())

    async def answer(self, call: Call, reply: Reply) -> None:
        """Sends the answer to the gate, part by part as it comes to be; returns at its end.

        A call that is cancelled ends the work on its request.
        """
        outbox = await self._outboxes.to(reply)
        given = iter([{"type": "http.request", "body": call.body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in given:
                return message
            # The gate cancels the call when a client is gone; until then it is there.
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"application/json")
                status = self._status(call, message["status"])
                await outbox.put_head(reply.number, Head(status, kind.decode("latin-1")))
            elif message.get("body"):
                await outbox.put(reply.number, Kind.BODY, message["body"])

        try:
            await self._app(_scope(call), receive, send)
        except Exception as error:
            # Starlette raises again what it has answered.
            log.exception("vLLM failed on a request")
            if isinstance(error, OSError):
                raise
        await outbox.put(reply.number, Kind.END)

    def _status(self, call: Call, status: int) -> int:
        """vLLM's status; a fault that it finds while its engine is well is the request's."""
        if status < 500 or self._engine.errored:
            return status
        log.error("vLLM answered %s with status %d", call.path, status)
        return 400

    async def metrics(self) -> str:
        """What vLLM tells Prometheus."""
        from prometheus_client import REGISTRY, generate_latest

        return generate_latest(REGISTRY).decode()

    async def check_health(self) -> None:
        """Raises when the engine is not well; Serve asks, and replaces the replica then."""
        await self._engine.check_health()

    async def _end_with_engine(self) -> None:
        """Ends this process when vLLM's engine process has died, for Serve to replace both."""
        while not self._engine.errored:
            await asyncio.sleep(_WATCH_S)
        os._exit(_ENGINE_DIED)

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.shutdown()


def _scope(call: Call) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"replica"), (b"content-type", b"application/json")],
        "client": None,
        "server": None,
    }
