"""The serve stage as Serve itself starts it from a config: asked, killed, updated, and refused."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI

from jobs.record import Record, StageStatus
from jobs.state import StageState
from storage.commit import begin, commit
from storage.layout import Layout
from storage.manifest import Owner
from tests.integration.serve_cluster import ServeCluster, serve_cluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "correct-horse-battery-staple"
HELLO: Any = [{"role": "user", "content": "Who are you?"}]
VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["yes", "no"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "decide", "parameters": VERDICT}}]


@pytest.fixture(scope="module")
def storage(
    asked_model: Path, save_llama: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two runs of a job, each of which left another model."""
    from transformers import AutoTokenizer

    root = tmp_path_factory.mktemp("storage")
    leave(root, "run-1", asked_model)
    other = tmp_path_factory.mktemp("other-model")
    save_llama(
        other, AutoTokenizer.from_pretrained(asked_model), hidden_size=64, intermediate_size=128,
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.1,
    )  # fmt: skip
    leave(root, "run-2", other)
    return root


def leave(root: Path, run_id: str, model: Path) -> None:
    """Leaves a run that merged a model."""
    record = Record.create(
        Layout(root).run("bot", run_id), run_id=run_id, name="bot", plan_json="{}", spec_text="",
        lock={}, stages=(StageStatus(name="merge", kind="merge"),), digest=run_id,
    )  # fmt: skip
    folder = record.layout.artifact("merge")
    owner = Owner(run_id=run_id, stage="merge", key=run_id, attempt=1)
    begin(folder, owner)
    shutil.copytree(model, folder, dirs_exist_ok=True)
    commit(folder, owner, {"type": "model"})
    record.move("merge", StageState.RUNNING, attempt=1)
    record.move("merge", StageState.SUCCEEDED, artifact=str(folder))


def arguments(storage: Path, **more: Any) -> dict[str, Any]:
    """The arguments of the application."""
    spec = {
        "kind": "serve",
        "model": "${stages.merge.model}",
        "served_model_name": "tiny",
        "cpus_per_replica": 1,
        "engine": {
            "max_model_len": 512, "max_num_seqs": 8, "kv_cache": "64MB", "torch_dtype": "float32",
        },
        "limits": {"max_body": "100KB"},
        "auth": {"api_key": "${secret:TINY_KEY}"},
    }  # fmt: skip
    return {"job": "bot", "storage": str(storage), "stage": "serve", "spec": spec} | more


@pytest.fixture(scope="module")
def cluster(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeCluster]:
    """A cluster that serves what the first run left."""
    folder = tmp_path_factory.mktemp("cluster")
    with serve_cluster(folder, {"TINY_KEY": KEY}) as cluster:
        cluster.deploy(arguments(storage, run="run-1"))
        cluster.until("RUNNING")
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: ServeCluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY, max_retries=0, timeout=120) as opened:
        yield opened


def chat(client: OpenAI, **settings: Any) -> Any:
    """The answer to a greeting, always the same."""
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 16, "temperature": 0, **settings}
    return client.chat.completions.create(**asked)


def text(client: OpenAI) -> str:
    """What the model says."""
    return str(chat(client).choices[0].message.content)


@dataclass
class Asked:
    """What came of asking for a while."""

    statuses: Counter[int] = field(default_factory=Counter)
    """How often each status came."""
    longest_s: float = 0.0
    """The longest that an answer took."""


def ask_until(client: OpenAI, is_done: Callable[[], bool]) -> Asked:
    """Asks, four at a time, until something is done."""
    asked = Asked()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            began = time.monotonic()
            try:
                chat(client)
                asked.statuses[200] += 1
            except openai.APIStatusError as error:
                asked.statuses[error.status_code] += 1
            asked.longest_s = max(asked.longest_s, time.monotonic() - began)
            # Else the new replica, on the same cores, would take long to start.
            done.wait(0.5)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        while not is_done():
            done.wait(0.5)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return asked


def test_clients_are_answered(client: OpenAI) -> None:
    assert [model.id for model in client.models.list().data] == ["tiny"]
    whole = text(client)
    assert whole == text(client)
    chunks = list(chat(client, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert len(chunks) > 5
    named = {"type": "function", "function": {"name": "decide"}}
    asked = {"tools": TOOLS, "tool_choice": named, "temperature": 1, "max_tokens": 300}
    (call,) = chat(client, **asked, seed=1).choices[0].message.tool_calls
    assert call.function.name == "decide"
    assert "verdict" in call.function.arguments


def test_what_is_refused(cluster: ServeCluster) -> None:
    with OpenAI(base_url=f"{cluster.url}/v1", api_key="wrong", max_retries=0) as wrong:
        with pytest.raises(openai.AuthenticationError):
            chat(wrong)
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()
    with httpx.Client(
        base_url=cluster.url, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False
    ) as asked:
        for path in ("/docs", "/tokenize", "/v1/responses", "/invocations", "/pause"):
            assert asked.get(path).status_code == 404
        assert asked.get("/v1/chat/completions").status_code == 405
        large = {"messages": [{"role": "user", "content": "x" * 200_000}]}
        assert asked.post("/v1/chat/completions", json=large).status_code == 413
        assert asked.get("/", headers={"Authorization": ""}).text.startswith("<!doctype html>")
        assert asked.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}
        assert asked.get("/metrics", headers={"Authorization": ""}).status_code == 401
        figures = asked.get("/metrics").text
        assert "raysmith_requests_total" in figures
        assert 'replica="0"' in figures


def test_a_web_socket_is_refused(cluster: ServeCluster) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
    }  # fmt: skip
    connection.request("GET", "/v1/models", headers=upgrade)
    assert connection.getresponse().status == 403
    connection.close()


def test_a_killed_replica_is_replaced(cluster: ServeCluster, client: OpenAI) -> None:
    before = text(client)
    (replica,) = cluster.replicas()
    os.kill(replica, signal.SIGKILL)

    def is_replaced() -> bool:
        return bool(cluster.replicas() - {replica})

    statuses = ask_until(client, is_replaced).statuses
    # Four were under way at the most; the others waited for the new one.
    assert statuses[502] <= 4
    assert set(statuses) <= {200, 502}
    assert text(client) == before


def test_an_update_loses_no_request(cluster: ServeCluster, client: OpenAI, storage: Path) -> None:
    before, replicas = text(client), cluster.replicas()
    cluster.deploy(arguments(storage))

    def is_done() -> bool:
        return cluster.status()["status"] == "RUNNING" and not cluster.replicas() & replicas

    asked = ask_until(client, is_done)
    assert set(asked.statuses) == {200}
    assert asked.longest_s < 10, "the old replica answers until the new one is up"
    assert text(client) != before, "the newest run is served"


def test_what_can_t_be_served_is_told_and_takes_nothing_away(
    cluster: ServeCluster, client: OpenAI, storage: Path
) -> None:
    before = text(client)
    cluster.deploy(arguments(storage, job="other"))
    assert "there is no run of the job 'other'" in cluster.until("DEPLOY_FAILED")
    assert text(client) == before
    with httpx.Client(base_url=cluster.url, trust_env=False) as asked:
        assert asked.get("/health").status_code == 200
