"""What a Serve config's arguments come to, and what is wrong with them."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.exceptions import RayServeException

from jobs.plan.derive import resolved_serve
from jobs.spec.serve import ServeSpec
from workloads.serve.app import Application, _arguments, build
from workloads.serve.channel import Inbox
from workloads.serve.gate import Gate
from workloads.serve.keys import Keys
from workloads.serve.replicas import Replicas
from workloads.serve.settings import ReplicaSettings

EMPTY_WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"
SPEC = {"kind": "serve", "model": "org/name", "auth": {"api_key": "${secret:KEY}"}}


def args(**more: Any) -> dict[str, Any]:
    return {"job": "bot", "storage": "/runs", "stage": "api", "spec": SPEC} | more


def test_a_spec_comes_to_an_application() -> None:
    assert isinstance(build(args()), serve.Application)


def test_a_plan_s_spec_is_taken_as_it_is() -> None:
    resolved = resolved_serve(ServeSpec.model_validate(SPEC), "bot")
    content = json.loads(json.dumps(resolved.model_dump(mode="json")))
    assert isinstance(build(args(spec=content, seed=7)), serve.Application)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jbo": "bot"}, "jbo: Extra inputs are not permitted"),
        ({"run": "../x"}, "run: String should match"),
        ({"spec": SPEC | {"modle": "x"}}, "spec.modle: Extra inputs"),
        ({"spec": {"kind": "serve", "model": "org/name"}}, "the stage 'api' has no auth"),
        ({"spec": SPEC | {"model": "${stages.sft.model}"}}, "no run of the job 'bot'"),
        ({"spec": SPEC | {"after": ["check"]}}, "what is needed of it: check"),
        ({"storage": "ftp://x"}, "storage"),
    ],
)
def test_what_is_wrong_is_told_without_a_traceback(wrong: dict[str, Any], message: str) -> None:
    if "storage" in wrong:
        wrong["spec"] = SPEC | {"after": ["check"]}
    with pytest.raises(RayServeException, match=message):
        build(args(**wrong))


def test_a_replica_is_told_of_the_stages_artifacts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(EMPTY_WEIGHTS)
    spec = resolved_serve(ServeSpec(kind="serve", model="${stages.sft.model}"), "bot")
    settings = ReplicaSettings(threads=1, cpus=1, gpus=0, seed=0)
    found = list(_arguments(spec, settings, {"model": tmp_path}))
    assert found[found.index("--model") + 1] == str(tmp_path)
    assert found[found.index("--served-model-name") + 1] == "bot"


def test_a_server_learns_that_the_application_lives_and_opens_no_web_socket() -> None:
    spec = resolved_serve(ServeSpec(kind="serve", model="m"), "bot")
    replicas = Replicas("bot", None, Inbox(), ("bot",))
    application = Application(Gate(replicas, Keys("key"), spec.limits))

    def spoken_to(kind: str) -> list[Mapping[str, Any]]:
        sent: list[Mapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(application({"type": kind}, receive, send))
        return sent

    assert [message["type"] for message in spoken_to("lifespan")] == [
        "lifespan.startup.complete", "lifespan.shutdown.complete",
    ]  # fmt: skip
    assert spoken_to("websocket") == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("states", "before", "after"),
    [
        ({"RUNNING": 1, "STARTING": 1}, False, True),
        ({"STARTING": 1}, True, False),
        (None, True, True),
        (None, False, False),
        ("gone", True, False),
    ],
)
def test_replicas_are_ready_as_serve_says(
    states: Any, before: bool, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: Serve lists none, since a later config could not be built."""
    listed = {"replica": SimpleNamespace(replica_states=states)} if states else {}
    details = None if states == "gone" else SimpleNamespace(deployments=listed)
    monkeypatch.setattr("workloads.serve.replicas.status", lambda _: details)
    replicas = Replicas("bot", None, Inbox(), ("bot",), is_ready=before)
    asyncio.run(replicas.look())
    assert replicas.is_ready is after


def test_who_asks_before_the_next_look_gets_a_look_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = SimpleNamespace(replica_states={"RUNNING": 1})
    details = SimpleNamespace(deployments={"replica": running})
    monkeypatch.setattr("workloads.serve.replicas.status", lambda _: details)
    assert asyncio.run(Replicas("bot", None, Inbox(), ("bot",), is_ready=False).ready())


def test_replicas_stay_what_they_were_while_serve_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(_: str) -> None:
        raise RayServeException("the controller is being restarted")

    monkeypatch.setattr("workloads.serve.replicas.status", away)
    replicas = Replicas("bot", None, Inbox(), ("bot",))
    asyncio.run(replicas.look())
    assert replicas.is_ready
