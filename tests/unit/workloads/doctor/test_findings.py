"""What doctor says of what it saw."""

from dataclasses import replace

import pytest

from cluster.fingerprint import fingerprint
from storage.probe import Abilities
from workloads.doctor.findings import (
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
from workloads.doctor.network import Reach
from workloads.doctor.node import Gpu, Node, NodeFacts, StorageFacts

NODES = [
    Node("a", "10.0.0.1", 0, 0, 8e9, 1e9, True),
    Node("b", "10.0.0.2", 8, 2, 64e9, 20e9, False),
]
FACTS = NodeFacts(
    host="h",
    python="3.11.7",
    versions={"ray": "2.60.0", "torch": "2.13.0", "numpy": "2.3.5"},
    code=fingerprint(),
    installed_code=None,
    shared_memory_bytes=2**34,
    free_disk_bytes=2**36,
    gpus=tuple(Gpu(index, "H100", 81559, 3, 40, 0) for index in range(2)),
    gpu_error=None,
)
TOLD = {"a": replace(FACTS, gpus=()), "b": FACTS}
FAST = StorageFacts(write_bytes_per_s=3e8, read_bytes_per_s=1e9, abilities=Abilities(True, True))


def test_resources_are_summed_and_none_is_a_failure() -> None:
    assert "2 nodes, 8 CPUs, 2 GPUs" in resources(NODES).message
    assert resources(NODES[:1]).level == "failed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"versions": {**FACTS.versions, "torch": "2.12.0"}}, "torch 2.12.0 on 10.0.0.2 is not"),
        ({"versions": {**FACTS.versions, "numpy": "2.3.4"}}, "nodes differ in numpy: 2.3.4, 2.3.5"),
        ({"python": "3.12.1"}, "nodes differ in python: 3.11.7, 3.12.1"),
        ({}, "transformers is absent on 10.0.0.1"),
    ],
)
def test_versions_that_do_not_fit_are_named_with_their_node(
    changes: dict[str, object], said: str
) -> None:
    found = versions(NODES, {"a": TOLD["a"], "b": replace(FACTS, **changes)})  # type: ignore[arg-type]
    assert found.level == "failed"
    assert said in found.message


def test_code_is_what_is_installed_where_something_is() -> None:
    assert code(NODES, TOLD).level == "ok"
    other = code(NODES, {**TOLD, "b": replace(FACTS, installed_code="e" * 64)})
    assert other.level == "failed"
    assert fingerprint()[:12] in other.message
    assert "eeeeeeeeeeee on 10.0.0.2" in other.message


@pytest.mark.parametrize(
    ("offset", "level"), [(0.01, "ok"), (-0.7, "warning"), (6.0, "failed"), (-3600.0, "failed")]
)
def test_clocks(offset: float, level: str) -> None:
    found = clocks(NODES, {"a": 0.0, "b": offset})
    assert found.level == level
    if level != "ok":
        assert f"10.0.0.2 is {'ahead' if offset > 0 else 'behind'}" in found.message


def test_little_disk_is_a_warning() -> None:
    assert room(TOLD).level == "ok"
    assert room({"a": replace(FACTS, free_disk_bytes=2**30)}).level == "warning"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus": FACTS.gpus[:1]}, "Ray counts 2 GPUs, there are 1"),
        ({"gpus": (), "gpu_error": "nvidia-smi: gone"}, "nvidia-smi: gone"),
        ({"gpus": (replace(FACTS.gpus[0], uncorrected_errors=3), FACTS.gpus[1])}, "3 uncorrected"),
        ({"gpus": (replace(FACTS.gpus[0], used_mib=40000), FACTS.gpus[1])}, "40000 of 81559 MiB"),
        ({"gpus": (replace(FACTS.gpus[0], temperature_c=95), FACTS.gpus[1])}, "95 degrees"),
    ],
)
def test_gpus_that_are_not_well_are_named(changes: dict[str, object], said: str) -> None:
    assert [found.message for found in gpus(NODES, TOLD)] == ["2 x H100: free, no memory errors"]
    told = {**TOLD, "b": replace(FACTS, **changes)}  # type: ignore[arg-type]
    (found,) = gpus(NODES, told)
    assert found.level == "failed"
    assert said in found.message


def test_storage_that_all_nodes_share() -> None:
    seen: dict[str, tuple[str, ...] | str] = {"a": ("a", "b"), "b": ("a", "b")}
    speed, once = storage("/mnt/runs", NODES, {"a": FAST, "b": FAST}, seen)
    assert (speed.level, once.level) == ("ok", "ok")
    assert "writes at least 300 MB/s" in speed.message


@pytest.mark.parametrize(
    ("written", "seen", "said"),
    [
        ({"b": StorageFacts(error="read-only")}, {}, "10.0.0.2: read-only"),
        ({"b": "no answer within 120 s"}, {}, "10.0.0.2: no answer"),
        ({}, {"b": ("b",)}, "10.0.0.2 does not see what 1 of 2 nodes wrote"),
        ({"b": replace(FAST, write_bytes_per_s=1e6)}, {}, "writes at least 1 MB/s"),
        ({"b": replace(FAST, abilities=Abilities(False, True))}, {}, "create one object are"),
    ],
)
def test_storage_that_is_not_well(
    written: dict[str, StorageFacts | str], seen: dict[str, tuple[str, ...] | str], said: str
) -> None:
    both: dict[str, StorageFacts | str] = {"a": FAST, "b": FAST}
    marks: dict[str, tuple[str, ...] | str] = {"a": ("a", "b"), "b": ("a", "b")}
    found = list(storage("/mnt/runs", NODES, {**both, **written}, {**marks, **seen}))
    assert any(said in finding.message and finding.level != "ok" for finding in found)
    assert all(finding.remedy for finding in found if finding.level != "ok")


def test_working_copies_on_one_folder_or_not() -> None:
    both: dict[str, tuple[str, ...] | str] = {"a": ("a", "b"), "b": ("a", "b")}
    assert copies("s3://runs", NODES, both).level == "ok"
    found = copies("s3://runs", NODES, {"a": ("a",), "b": "no answer"})
    assert found.level == "warning"
    assert "10.0.0.1 does not see what 1 of 2 nodes wrote; 10.0.0.2 does not" in found.message
    assert "XDG_CACHE_HOME" in str(found.remedy)


def test_network() -> None:
    good = Reach(None, 0.02, 8e8)
    assert network("gloo", NODES, {"a": good, "b": good}).level == "ok"
    bad = network("nccl", NODES, {"a": good, "b": Reach("connect() timed out")})
    assert bad.level == "failed"
    assert "10.0.0.2: connect() timed out" in bad.message
