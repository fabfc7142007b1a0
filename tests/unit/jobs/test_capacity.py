"""What `plan` says of memory."""

import pytest

import cluster.local
import jobs.capacity
from jobs.capacity import memory_lines
from jobs.plan.fit import Node
from jobs.plan.memory import Estimate

B = 10**9
ON_CPUS = Estimate({"weights": 3 * B}, {}, on_gpu=False, workers=2)
ON_GPUS = Estimate({"weights": 30 * B}, {}, on_gpu=True, workers=8)


@pytest.fixture(autouse=True)
def _no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.capacity, "current_profile", lambda: None)


def test_workers_of_this_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.local, "this_machine", lambda: Node("here", 4, memory=7 * B))
    assert list(memory_lines({"sft": ON_CPUS, "big": ON_GPUS}, None)) == [
        "",
        "memory:",
        "  sft: 2 workers with at most 3.0 GB of memory each: weights 3.0 GB (tight in 3.5 GB)",
        # A GPU's memory is not known here.
        "  big: 8 workers with at most 30.0 GB of GPU memory each: weights 30.0 GB",
    ]


def test_a_cluster_s_memory_is_not_known() -> None:
    (*_, line) = memory_lines({"sft": ON_CPUS}, "http://head:8265")
    assert line.endswith("weights 3.0 GB")


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert list(memory_lines({}, None)) == []
