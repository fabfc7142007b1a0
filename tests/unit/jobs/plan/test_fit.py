"""Whether what a stage needs has a place on nodes."""

from math import inf

import pytest

from jobs.errors import ClusterUnfit
from jobs.plan.demand import DATA, Demand, Processes
from jobs.plan.fit import LEAST_WORKER_BYTES, Node, misfits, placed, refuse_misfits, share

PAIR = (Node("a", 4), Node("b", 4))


def _demand(*groups: tuple[int, int, float], data: bool = True) -> Demand:
    workers = [Processes("train worker", *group) for group in groups]
    return Demand("sft", (*workers, *([Processes(DATA, 1, 1, 0, "dataset")] if data else [])))


def test_what_is_left_of_the_nodes_is_told() -> None:
    left = placed(_demand((1, 3, 0)), PAIR)
    assert left is not None
    assert [node.cpus for node in left] == [0, 4]


@pytest.mark.parametrize(
    ("groups", "fits"),
    [
        ([(2, 3, 0)], True),
        ([(2, 4, 0)], False),  # no core is left for data
        ([(1, 5, 0)], False),  # as many cores as there are, but none of the nodes has them
        ([(1, 1, 1)], False),
        # In the order of their size, the two of 2 would take what each 3 needs.
        ([(1, 3, 0), (1, 3, 0)], True),
    ],
)
def test_each_process_lies_on_one_node(groups: list[tuple[int, int, float]], fits: bool) -> None:
    assert (placed(_demand(*groups), PAIR) is not None) is fits


def test_ten_tenths_of_a_gpu_are_one() -> None:
    judges = Demand("grpo", (Processes("reward worker", 10, 0, 0.1, "rewards"),))
    assert placed(judges, [Node("a", 1, 1)]) is not None


def test_a_refusal_has_the_numbers_and_the_fields_to_change() -> None:
    (misfit,) = misfits([_demand((8, 4, 2)), _demand((1, 1, 0))], (*PAIR, Node("c", 8, 4)))
    assert str(misfit) == (
        "stage sft wants 33 CPUs of 16, and 16 GPUs of 4 that there are: it needs 8 train workers "
        "with 4 CPU and 2 GPU each; 1 data task with 1 CPU; the largest of 3 nodes has "
        "8 CPU and 4 GPU\n"
        "  fix: lower stages.sft.resources.workers, stages.sft.resources.gpus_per_worker, "
        "or use larger or more nodes"
    )


def test_processes_that_are_too_large_for_any_node_are_told_so() -> None:
    (misfit,) = misfits([_demand((1, 6, 0))], PAIR)
    assert "finds no nodes that hold its processes, each of which lies on one" in misfit.message


def test_workers_that_memory_can_not_hold_are_refused_however_many_cores_they_share() -> None:
    machine = Node("this machine", inf, 0, 4 * LEAST_WORKER_BYTES)
    refuse_misfits([_demand((4, 1, 0))], [machine], "this machine")
    with pytest.raises(ClusterUnfit, match=r"at least 2.0 GB of memory of 1.6 GB") as refused:
        refuse_misfits([_demand((5, 1, 0))], [machine], "this machine")
    assert "stages.sft.resources.workers" in (refused.value.remedy or "")


@pytest.mark.parametrize(
    ("nodes", "processes", "cpus"),
    [
        ((2, 2), 2, 1),
        ((2, 2), 1, 2),
        ((4, 4), 1, 4),
        ((4, 4), 2, 3),
        ((5, 4), 2, 4),
        ((64,), 2, 4),
        ((0,), 1, 1),
        ((8,), 2**62, 1),
    ],
)
def test_a_share_leaves_a_core_for_data(nodes: tuple[int, ...], processes: int, cpus: int) -> None:
    assert share([Node(str(n), has) for n, has in enumerate(nodes)], processes) == cpus
