"""Weights from two train workers to vLLM engines on CPUs, and what becomes of broken updates.

Engine and trainer are compared by the log-probabilities that each gives a text. The policy is
disturbed before each update, so that what did not arrive shows.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.errors import UserError
from jobs.spec.training import DeepSpeedStage
from jobs.spec.tuner import FullSpec, LoraSpec
from tests.integration import weight_sync_harness
from tests.integration.weight_sync_harness import (
    ROLLOUT,
    TOLERANCE,
    VERSIONS,
    VISIBLE,
    WORKERS,
    Policy,
    Ranks,
    Started,
    Struck,
    TrainRank,
    request,
)
from workloads.engine import EngineSettings, environment
from workloads.grpo.engines import VersionSpan
from workloads.grpo.rollout import RolloutActor

if TYPE_CHECKING:
    from tests.integration.conftest import OwnRay

    Key = tuple[int, int]

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def cluster(own_ray: OwnRay) -> Iterator[None]:
    """A Ray of our own."""
    import ray

    # Workers can't import the module, so its classes travel whole.
    ray.cloudpickle.register_pickle_by_value(weight_sync_harness)
    with own_ray(4):
        yield


@pytest.fixture(scope="module")
def models(
    tiny_model: Path, save_llama: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Two models with heads of a size that vLLM's attention on CPUs knows, by their output layer.

    The tied one has 92 MB, and travels in two buckets, the cut between `gate` and `up` of its last
    layer, which vLLM loads as one.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    folders = {}
    for head, width in (("tied", 60_000), ("untied", 128)):
        folder = tmp_path_factory.mktemp(head)
        save_llama(
            folder,
            tokenizer,
            hidden_size=64,
            intermediate_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.1,
            tie_word_embeddings=head == "tied",
        )
        folders[head] = str(folder)
    return folders


@pytest.fixture(scope="module")
def started(
    cluster: None, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ranks, dict[str, Started]]:
    """The train workers, and engines by name; all start at once, as each takes a while."""
    import ray

    folder = tmp_path_factory.mktemp("engines")
    tied = EngineSettings(
        model=models["tied"],
        dtype="float32",
        transfer_backend="gloo",
        max_model_len=512,
        max_num_seqs=8,
        seed=0,
        threads=1,
        on_gpu=False,
        in_process=True,
        kv_cache_bytes=2**26,
    )
    untied = replace(tied, model=models["untied"])
    settings = {
        "tied": tied,
        "spare": tied,
        "untied": replace(untied, in_process=False),
        "adapter": replace(untied, max_lora_rank=8, max_loras=2),
    }
    rollout, rank = ray.remote(RolloutActor), ray.remote(TrainRank)
    handles = {
        name: rollout.options(
            num_cpus=0, max_concurrency=100, runtime_env={"env_vars": environment(chosen)}
        ).remote(chosen, folder / f"{name}.log")
        for name, chosen in settings.items()
    }
    pids = {name: handle.start.remote() for name, handle in handles.items()}
    ranks = Ranks([rank.options(num_cpus=0).remote(i, f"{folder}/store") for i in range(WORKERS)])
    return ranks, {n: Started(handles[n], pid) for n, pid in _answers(pids).items()}


def _answers(calls: dict[str, Any]) -> dict[str, Any]:
    import ray

    return dict(zip(calls, ray.get(list(calls.values()), timeout=300), strict=True))


@pytest.fixture
def ranks(started: tuple[Ranks, dict[str, Started]]) -> Ranks:
    """The train workers."""
    return started[0]


@pytest.fixture
def engines(started: tuple[Ranks, dict[str, Started]]) -> dict[str, Started]:
    """The engines."""
    return started[1]


LORA = LoraSpec(rank=8)
TUNERS: dict[str, LoraSpec | FullSpec] = {
    "lora": LORA,
    "full": FullSpec(type="full"),
    "rslora": LoraSpec(rank=8, use_rslora=True),
    "dora": LoraSpec(rank=8, use_dora=True),
    "lora and a head": LoraSpec(rank=8, modules_to_save=("lm_head",)),
}
POLICIES = [
    *((head, stage, tuner) for head in ("tied", "untied")
      for stage in ("zero0", "zero2", "zero3") for tuner in ("lora", "full")),
    ("untied", "zero2", "rslora"),
    ("tied", "zero3", "rslora"),
    ("untied", "zero3", "dora"),
    ("untied", "zero0", "dora"),
    ("untied", "zero3", "lora and a head"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "stage", "tuner"), POLICIES)
def test_the_policy_arrives(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str],
    head: str, stage: DeepSpeedStage, tuner: str,
) -> None:  # fmt: skip
    import ray

    engine = engines[head].handle
    ranks.build(Policy(models[head], stage, TUNERS[tuner]), {0: engine})
    for turn in range(2):
        ranks.ask("disturb", turn)
        assert ranks.difference(engine) > VISIBLE
        version = next(VERSIONS)
        (difference,) = ranks.ask("update", version)
        assert difference < TOLERANCE
        assert ranks.difference(engine) < TOLERANCE
        generation = ray.get(engine.generate.remote(request(f"v{version}", 4), 60.0))
        assert generation.spans == [VersionSpan(version, 0, 4)]


def test_an_adapter_arrives_as_a_file(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str], tmp_path: Path
) -> None:
    import ray

    engine = engines["adapter"].handle
    ranks.build(Policy(models["untied"], "zero3", LORA), {0: engine}, adapters=tmp_path)
    for version in range(3):
        ranks.ask("disturb", version)
        assert ranks.difference(engine) > VISIBLE
        (difference,) = ranks.ask("update", version)
        assert difference < TOLERANCE
        generation = ray.get(engine.generate.remote(request(f"v{version}", 4), 60.0))
        assert generation.spans == [VersionSpan(version, 0, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1", "v2"]


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_completions_go_on_across_an_update(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str], head: str
) -> None:
    """In both kinds of engine."""
    import ray

    engine = engines[head].handle
    ranks.build(Policy(models[head], "zero2", LORA), {0: engine})
    first, second = next(VERSIONS), next(VERSIONS)
    assert max(ranks.ask("update", first)) < TOLERANCE
    ranks.ask("disturb", 0)
    long = engine.generate.remote(request("long", 500), 60.0)
    # They are written in the same steps: when this one ends, the other has begun.
    ray.get(engine.generate.remote(request("short", 2), 60.0))
    assert max(ranks.ask("update", second)) < TOLERANCE
    before, after = ray.get(long, timeout=60).spans
    assert (before.version, after.version) == (first, second)
    assert (before.start, before.stop, after.stop) == (0, after.start, 500)


def test_a_difference_ends_the_run(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str]
) -> None:
    ranks.build(Policy(models["untied"], "zero0", LORA), {5: engines["untied"].handle})
    ranks.ask("misjudge", 0.25)
    with pytest.raises(UserError, match=r"engine 5 differ .* by 0\.25 in the mean.* 0\.001"):
        ranks.ask("update", next(VERSIONS))


def test_an_engine_that_hangs_is_reported(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str]
) -> None:
    """The other one, with half of the weights, is silent until it has them all."""
    import ray

    engine, spare = engines["tied"].handle, engines["spare"]
    handles = {0: engine, 1: Struck(spare.handle, spare.pid, signal.SIGSTOP, "update_weights")}
    rollout = ROLLOUT.model_copy(update={"sync_timeout_s": 3.0})
    pool = ranks.build(Policy(models["tied"], "zero3", FullSpec(type="full")), handles, rollout)
    ranks.ask("disturb", 0)
    version = next(VERSIONS)
    try:
        (difference,) = ranks.ask("update", version)
    finally:
        os.kill(spare.pid, signal.SIGCONT)
    assert difference < TOLERANCE
    assert ranks.difference(engine) < TOLERANCE
    assert ray.get(pool.heard.remote()) == [
        ("end_update", version, [], {(1, 1): "update_weights took longer than 13 s"}),
        ("failed_update", [(0, 1)]),
        ("end_update", version, [(0, 1)], {}),
    ]
    early, (generation,) = ray.get(pool.completions.remote())
    assert early == 0
    assert generation.spans == [VersionSpan(version, 0, 4)]


@pytest.mark.parametrize(
    ("head", "victim", "method"),
    [
        ("tied", "spare", "update_weights"),
        ("untied", "adapter", "start_weight_update"),
    ],
)
def test_an_engine_that_dies_is_reported(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str],
    head: str, victim: str, method: str,
) -> None:  # fmt: skip
    """The last test, for the victims are gone."""
    import ray

    engine, lost = engines[head].handle, engines[victim]
    handles = {0: engine, 1: Struck(lost.handle, lost.pid, signal.SIGKILL, method)}
    pool = ranks.build(Policy(models[head], "zero3", LORA), handles)
    ranks.ask("disturb", 0)
    version = next(VERSIONS)
    (difference,) = ranks.ask("update", version)
    assert difference < TOLERANCE
    assert ranks.difference(engine) < TOLERANCE
    assert ray.get(pool.heard.remote()) == [
        ("end_update", version, [], {(1, 1): f"it died in {method} (ActorDiedError)"}),
        ("failed_update", [(0, 1)]),
        ("end_update", version, [(0, 1)], {}),
    ]
    early, (generation,) = ray.get(pool.completions.remote())
    assert early == 0
    assert generation.spans == [VersionSpan(version, 0, 4)]
