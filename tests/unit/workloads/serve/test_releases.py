"""How a release is asked, what can go wrong with it, and why an engine did not start."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from jobs.plan.derive import resolved_serve
from jobs.spec.serve import ServeSpec
from storage.layout import AttemptLayout
from workloads.serve.answers import Refusal
from workloads.serve.channel import Head, Inbox, Reply
from workloads.serve.releases import Releases, _Standing, last_error
from workloads.serve.replica import Call
from workloads.serve.replicas import Replicas
from workloads.serve.settings import Release, ReplicaSettings

CALL = Call("POST", "/v1/completions", b"{}")
HEAD = Head(200, "application/json")
NESTED = """\
ray::ServeReplica.initialize() (pid=1)
  File "a.py", line 1, in f
RuntimeError: Traceback (most recent call last):
  File "b.py", line 2, in g
    raise ValueError(
ValueError: Couldn't load the tokenizer
"""
ENGINE = """\
(EngineCore pid=7) ERROR 11-22 [core.py:1] torch.OutOfMemoryError: 4 GiB are too much
(EngineCore pid=7) Process EngineCore:
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


class Response:
    """A call of a replica that ends as the test says."""

    def __init__(self, end: "asyncio.Future[None]") -> None:
        self._end = end
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, None]:
        return self._end.__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Stands for Serve's handle; the test is the replica."""

    def __init__(self) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.response = Response(self.end)
        self.reply: Reply | None = None

    def remote(self, call: Call, reply: Reply) -> Response:
        assert call == CALL
        self.reply = reply
        return self.response


def standing(handle: Handle) -> Releases:
    """Releases of which one is up."""
    spec = resolved_serve(ServeSpec(kind="serve", model="m"), "bot")
    settings = ReplicaSettings(threads=1, cpus=1, gpus=0, seed=0)
    releases = Releases(spec, settings, Inbox(), AttemptLayout(Path("attempt")), "run-serve")
    release = Release(1, "/m", "bot", {}, 0)
    replicas = Replicas("run-serve-1", handle, releases.inbox, release.models)
    releases._current = _Standing(release, replicas)
    return releases


def test_a_whole_answer_is_passed_on_and_its_call_left_to_end() -> None:
    async def scenario() -> None:
        handle = Handle()
        releases = standing(handle)
        async with releases.ask(CALL) as parts:
            assert handle.reply
            queue = releases.inbox._expected[handle.reply.number]
            for part in (HEAD, b"a", b"b", None):
                queue.put_nowait(part)
            assert [part async for part in parts] == [HEAD, b"a", b"b"]
        assert not handle.response.cancelled
        await releases.drained()
        handle.end.set_result(None)

    asyncio.run(scenario())


def test_a_request_that_is_given_up_is_cancelled() -> None:
    async def scenario() -> None:
        handle = Handle()
        releases = standing(handle)
        async with releases.ask(CALL):
            pass
        assert handle.response.cancelled
        await releases.drained()

    asyncio.run(scenario())


@pytest.mark.parametrize(("lost", "status"), [("full", 429), ("died", 502), ("cut off", 502)])
def test_calls_that_fail_are_refusals(
    lost: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError

    monkeypatch.setattr("workloads.serve.replicas._OVERTAKEN_S", 0.01)

    async def scenario() -> Refusal:
        handle = Handle()
        releases = standing(handle)
        if lost == "cut off":
            handle.end.set_result(None)
        else:
            full = BackPressureError(num_queued_requests=9, max_queued_requests=8)
            handle.end.set_exception(full if lost == "full" else RayActorError())
        with pytest.raises(Refusal) as caught:
            async with releases.ask(CALL) as parts:
                assert [part async for part in parts]
        await releases.drained()
        return caught.value

    assert asyncio.run(scenario()).status == status


def test_the_last_error_is_told_in_one_line() -> None:
    assert last_error(NESTED) == "ValueError: Couldn't load the tokenizer"
    assert last_error(ENGINE) == "torch.OutOfMemoryError: 4 GiB are too much"
    assert last_error("INFO all is well\nno error here") is None
