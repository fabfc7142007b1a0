"""Runs on a cluster of several nodes: two at once, and one that is too large for it.

The head has no CPUs, as it should on a cluster; each of two nodes has two.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.many_nodes import Run

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

_MEMORY = 150 * 2**20
Start = Callable[..., Run]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without CPUs and two nodes with two each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ray")
        (folder / "ray").mkdir()
        patch.setenv("RAY_TMPDIR", str(folder))
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY}
        made = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            made.add_node(num_cpus=2, object_store_memory=_MEMORY)
        yield made
        made.shutdown()


@pytest.fixture
def start(cluster: Any, tiny_model: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts jobs on the cluster that train the tiny model."""
    runs: list[Run] = []
    rows = [{"query": f"What is {i} + {i}?", "response": f"It is {2 * i}."} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def begin(name: str, resources: str, steps: int = 6) -> Run:
        job = tmp_path / f"{name}.yaml"
        job.write_text(f"""
version: 1
name: {name}
stages:
  sft:
    kind: sft
    model: {tiny_model}
    dataset: {{train: [./rows.jsonl]}}
    tuner: {{type: lora, rank: 4}}
    training: {{max_steps: {steps}, global_batch_size: 12, learning_rate: 1e-2, logging_steps: 1}}
    checkpoint: {{save_steps: 2}}
    resources: {resources}
""")
        runs.append(Run(job, tmp_path / name, cluster.address))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def test_two_jobs_that_fit_run_side_by_side(start: Start) -> None:
    first, second = (start(name, "{workers: 2, cpus_per_worker: 1}") for name in ("one", "two"))
    first.finish()
    second.finish()
    assert not first.events("waiting") + second.events("waiting")
    assert first.losses() == second.losses()


@pytest.mark.soak
def test_jobs_that_do_not_fit_together_wait_and_one_outlives_a_lost_node(
    start: Start, cluster: Any
) -> None:
    first, second = (
        start(name, "{workers: 3, cpus_per_worker: 1}", steps=40) for name in ("left", "right")
    )
    runs = (first, second)
    first.wait_for(lambda: any(run.steps() >= 5 for run in runs))
    (waiting,) = [run for run in runs if run.events("waiting")]
    (trains,) = [run for run in runs if run is not waiting]
    reason = waiting.events("waiting")[0]["reason"]
    assert reason.startswith("3 CPUs: 3 of 4 in use by ")
    trains.finish()
    waiting.wait_for(lambda: waiting.steps() >= 5)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    waiting.wait_for(lambda: waiting.events("retry"))
    assert waiting.events("retry")[0]["reason"] == "node_lost"
    waiting.wait_for(lambda: len(waiting.events("waiting")) > 1)
    cluster.add_node(num_cpus=2, object_store_memory=_MEMORY)
    told = waiting.finish()
    assert f"waiting for {reason}" in told
    assert "retrying: node_lost: the cluster lost" in told
    (resumed,) = waiting.events("resumed")
    assert resumed["step"] >= 2
    # The same workers on other nodes: the same numbers.
    assert waiting.losses() == trains.losses()


def test_what_can_not_fit_is_refused_with_numbers(start: Start) -> None:
    began = time.monotonic()
    told = start("large", "{workers: 2, cpus_per_worker: 4}").finish(3)
    assert "wants 8 CPUs of 4 that there are" in told
    assert "the largest of 3 nodes has 2 CPU" in told
    assert "stages.sft.resources.workers, stages.sft.resources.cpus_per_worker" in told
    assert time.monotonic() - began < 60
