"""Looks at a connected cluster, node by node, and says what it finds."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from jobs.errors import RaysmithError
from storage.backend import open_backend
from storage.uri import parse_uri
from workloads.doctor.findings import (
    Finding,
    clocks,
    code,
    copies,
    gpus,
    network,
    resources,
    room,
    storage,
    versions,
)
from workloads.doctor.network import Peer, Reach
from workloads.doctor.node import (
    Node,
    NodeFacts,
    StorageFacts,
    copies_marks,
    facts,
    mark_copies,
    marks_seen,
    remove_copies_marks,
    write_storage,
)

_TIMEOUT_S = 120.0
_NETWORK_TIMEOUT_S = 30.0
Answer = TypeVar("Answer")


def nodes() -> list[Node]:
    """The nodes that live, the head first. Needs a connected Ray."""
    import ray

    alive = [entry for entry in ray.nodes() if entry["Alive"]]
    found = [
        Node(
            entry["NodeID"],
            entry["NodeManagerAddress"],
            entry["Resources"].get("CPU", 0.0),
            entry["Resources"].get("GPU", 0.0),
            entry["Resources"].get("memory", 0.0),
            entry["Resources"].get("object_store_memory", 0.0),
            "node:__internal_head__" in entry["Resources"],
        )
        for entry in alive
    ]
    return sorted(found, key=lambda node: (not node.is_head, node.address, node.id))


def examine(storage_root: str) -> Iterator[Finding]:
    """Everything that there is to say of the connected cluster, a finding at a time.

    `storage_root` is where runs lie, as nodes reach it.
    """
    found = nodes()
    yield resources(found)
    answers: dict[str, NodeFacts | str] = {}
    for with_gpus in (False, True):
        if alike := [node for node in found if (node.gpus > 0) is with_gpus]:
            answers |= _on_nodes(alike, partial(facts, with_gpus))
    told: dict[str, NodeFacts] = {}
    for node in found:
        answer = answers[node.id]
        if isinstance(answer, NodeFacts):
            told[node.id] = answer
        else:
            yield Finding("failed", f"node {node.address}", f"no answer: {answer}", _LOGS)
    yield versions(found, told)
    yield code(found, told)
    yield clocks(found, _clock_offsets(found, told))
    yield from gpus(found, told)
    yield room(told)
    yield from _storage(found, storage_root)
    if len(found) > 1 and parse_uri(storage_root).local_path is None:
        yield _copies(found, storage_root)
    yield from _network(found)


_LOGS = "see the node's logs: its raylet may be dying, or its environment broken"


def _clock_offsets(found: list[Node], told: Mapping[str, NodeFacts]) -> dict[str, float]:
    """How far the clock of each node is ahead of this process's, in seconds.

    Processes are warm by now, so a question takes milliseconds, which bounds the error.
    """
    offsets = {}
    for node in found:
        if node.id not in told:
            continue
        before = time.time()
        there = _on_nodes([node], time.time).get(node.id)
        if isinstance(there, float):
            offsets[node.id] = there - (before + time.time()) / 2
    return offsets


def _storage(found: list[Node], root: str) -> Iterator[Finding]:
    prefix = f".doctor-{secrets.token_hex(4)}"
    try:
        # One node at a time, so that they do not share the speed that is measured.
        written: dict[str, StorageFacts | str] = {}
        for node in found:
            written |= _on_nodes([node], partial(write_storage, root, prefix, node.id))
        seen = _on_nodes(found, partial(marks_seen, root, prefix))
        yield from storage(root, found, written, seen)
    finally:
        with suppress(OSError, RaysmithError):
            open_backend(parse_uri(root)).delete_prefix(f"{prefix}/")


def _copies(found: list[Node], root: str) -> Finding:
    prefix = f".doctor-{secrets.token_hex(4)}"
    try:
        _on_nodes(found, partial(mark_copies, root, prefix))
        return copies(root, found, _on_nodes(found, partial(copies_marks, root, prefix)))
    finally:
        _on_nodes(found, partial(remove_copies_marks, root, prefix))


def _network(found: list[Node]) -> Iterator[Finding]:
    with_cpus = [node for node in found if node.cpus >= 1]
    with_gpus = [node for node in found if node.gpus >= 1]
    for backend, members in (("gloo", with_cpus), ("nccl", with_gpus)):
        if members:
            yield network(backend, members, _sums(backend, members))


def _sums(backend: str, members: list[Node]) -> dict[str, Reach | str]:
    """What one process of each node saw when all summed a tensor."""
    import ray

    actors: dict[str, Any] = {}
    for node in members:
        options = {"num_cpus": 0, "num_gpus": 1 if backend == "nccl" else 0}
        actors[node.id] = (
            ray.remote(Peer).options(scheduling_strategy=_there(node), **options).remote()
        )
    try:
        first = actors[members[0].id]
        try:
            master = ray.get(first.address.remote(), timeout=_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            return {members[0].id: f"no process starts there: {type(error).__name__}"}
        calls = {
            node.id: actors[node.id].sum.remote(
                backend, master, rank, len(members), _NETWORK_TIMEOUT_S
            )
            for rank, node in enumerate(members)
        }
        return _answers(calls, _TIMEOUT_S)
    finally:
        for actor in actors.values():
            ray.kill(actor)


def _on_nodes(found: list[Node], function: Callable[[], Answer]) -> dict[str, Answer | str]:
    """What a function returns on each node, or why it did not."""
    import ray

    task = ray.remote(num_cpus=0, max_retries=0)(_called)
    calls = {
        node.id: task.options(scheduling_strategy=_there(node)).remote(function) for node in found
    }
    return _answers(calls, _TIMEOUT_S)


def _called(function: Callable[[], Answer]) -> Answer:
    return function()


def _answers(calls: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    import ray

    done, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
    answers: dict[str, Any] = {}
    for node, call in calls.items():
        if call not in done:
            answers[node] = f"no answer within {timeout_s:.0f} s"
            continue
        try:
            answers[node] = ray.get(call)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            answers[node] = f"{type(cause).__name__}: {str(cause).splitlines()[0]}"
    return answers


def _there(node: Node) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)
