"""Weights from two train workers to vLLM engines on CPUs, and what becomes of broken updates.

Engine and trainer are compared by the log-probabilities that each gives a text. The policy is
disturbed before each update, so that what did not arrive shows.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.errors import UserError
from jobs.spec.rollout import RolloutSpec
from jobs.spec.training import DeepSpeedStage, TrainingSpec
from jobs.spec.tuner import FullSpec, LoraSpec
from workloads.grpo.engines import (
    EngineSettings,
    Generation,
    Request,
    Sampling,
    VersionSpan,
    environment,
)
from workloads.grpo.rollout import RolloutActor
from workloads.grpo.samples import Receiver

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

TOLERANCE, VISIBLE = 1e-3, 0.05
CANARY = [7 * i % 300 for i in range(60)]
WORKERS = 2
VERSIONS = count(1)
ROLLOUT = RolloutSpec(canary_tolerance=TOLERANCE, sync_timeout_s=60)


def request(name: str, tokens: int) -> Request:
    """A completion of exactly so many tokens, as the models know no end."""
    return Request(name, CANARY[:10], Sampling(0.9, tokens, seed=1))


class Pool:
    """Stands in for the coordinator: hands out the engines, and keeps what it is told."""

    def __init__(self, handles: dict[int, Any]) -> None:
        self.handles = handles
        self.told: list[tuple[Any, ...]] = []
        self.early: list[Any] = []
        self.late: list[Generation] = []
        self._asked: list[Any] = []

    def begin_update(self, version: int) -> list[Receiver]:
        return [Receiver(index, 1, handle) for index, handle in self.handles.items()]

    def end_update(self, version: int, updated: list[int], failed: dict[int, str]) -> None:
        import ray

        self.told.append(("end_update", version, updated, failed))
        for index in failed:
            del self.handles[index]
        if updated:
            self.late = ray.get(self._asked)

    def failed_update(self, indices: list[int]) -> None:
        """Asks those that live for completions, which they must not write now."""
        import ray

        self.told.append(("failed_update", indices))
        self._asked = [self.handles[i].generate.remote(request("broken", 4)) for i in indices]
        self.early, _ = ray.wait(self._asked, num_returns=len(indices), timeout=1)

    def heard(self) -> list[tuple[Any, ...]]:
        """What it was told, in turn."""
        return self.told

    def completions(self) -> tuple[int, list[Generation]]:
        """How many were written before the update was complete, and all of them in the end."""
        return len(self.early), self.late


@dataclass(frozen=True)
class Struck:
    """An engine's handle that sends its process a signal before it calls a certain method."""

    handle: Any
    pid: int
    signal: int
    method: str

    @property
    def call(self) -> Struck:
        """What is called of an engine during an update."""
        return self

    def remote(self, method: str, *args: Any) -> Any:
        """Calls the engine."""
        if method == self.method:
            os.kill(self.pid, self.signal)
        return self.handle.call.remote(method, *args)


@dataclass(frozen=True)
class Policy:
    """What is trained, and how."""

    model: str
    stage: DeepSpeedStage
    tuner: LoraSpec | FullSpec


class TrainRank:
    """One train worker."""

    def __init__(self, rank: int, store: str) -> None:
        import torch

        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS))
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS
        )
        self.rank = rank
        self.error = 0.0
        self.engine: Any = None
        self.sync: Any = None

    def build(self, policy: Policy, pool: Any, rollout: RolloutSpec, adapters: Path | None) -> None:
        """Makes the policy, and its way to the engines."""
        from workloads.grpo.carriers import AdapterFiles, FullWeights
        from workloads.grpo.weight_sync import WeightSync
        from workloads.models.load import attach_tuner, load_model
        from workloads.train.engine import DTYPES, hold_partitioned, make_engine

        dtype = DTYPES["float32"]
        training = TrainingSpec(torch_dtype="float32", deepspeed=policy.stage, learning_rate=1e-4)
        with hold_partitioned(training):
            model = attach_tuner(load_model(policy.model, dtype), policy.tuner, seed=0)
        self.engine = make_engine(model, training, passes=1)
        module = self.engine.module
        carrier = (
            AdapterFiles(module, rollout, self.rank, adapters)
            if adapters
            else FullWeights(module, dtype, rollout, "gloo", self.rank)
        )
        self.error = 0.0
        self.sync = WeightSync(carrier, rollout, pool, self.rank, CANARY, self.score)

    def disturb(self, seed: int) -> None:
        """Changes all weights that are trained, alike on all workers."""
        import torch

        from workloads.train.state import trained_parameters

        noise = torch.Generator().manual_seed(seed)
        for _, parameter in trained_parameters(self.engine.module):
            with torch.no_grad(), _writable(parameter):
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)

    def misjudge(self, error: float) -> None:
        """From now on the trainer's log-probabilities are wrong by so much."""
        self.error = error

    def score(self, token_ids: Any) -> list[float]:
        """Log-probability of each token but the first."""
        from workloads.grpo.forward import text_logps

        self.engine.eval()
        logps = text_logps(self.engine, token_ids, self.engine.device)
        return [logp + self.error for logp in logps]

    def update(self, version: int) -> list[float]:
        """Updates the engines. Returns the differences that were measured in doing so."""
        before = len(self.sync.differences)
        self.sync.update(version)
        differences: list[float] = self.sync.differences[before:]
        return differences


def _writable(parameter: nn.Parameter) -> Any:
    """Makes a weight whole, whose changes on the first worker hold for all."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(
        [parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")
    )


class Ranks:
    """The train workers, which are all asked the same at once."""

    def __init__(self, actors: list[Any]) -> None:
        self.actors = actors

    def ask(self, method: str, *args: Any) -> Any:
        """What the first answers, when all have."""
        import ray

        return ray.get([getattr(a, method).remote(*args) for a in self.actors], timeout=120)[0]

    def build(
        self,
        policy: Policy,
        handles: dict[int, Any],
        rollout: RolloutSpec = ROLLOUT,
        adapters: Path | None = None,
    ) -> Any:
        """Makes the policy. Returns the pool that stands between it and these engines."""
        import ray

        pool = ray.remote(Pool).options(num_cpus=0).remote(handles)
        self.ask("build", policy, pool, rollout, adapters)
        return pool

    def difference(self, engine: Any) -> float:
        """The mean difference of an engine's log-probabilities from the trainer's."""
        import ray

        theirs = ray.get(engine.score.remote(CANARY), timeout=60)
        mine = self.ask("score", CANARY)
        assert len(mine) == len(theirs) == len(CANARY) - 1
        return sum(abs(a - b) for a, b in zip(mine, theirs, strict=True)) / len(mine)


@dataclass(frozen=True)
class Started:
    """An engine that is ready."""

    handle: Any
    pid: int


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32))
        import ray

        # Workers can't import this module, so its classes travel whole.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models with heads of a size that vLLM's attention on CPUs knows, by their output layer.

    The tied one has 92 MB, and travels in two buckets, the cut between `gate` and `up` of its last
    layer, which vLLM loads as one.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    folders = {}
    for head, width in (("tied", 60_000), ("untied", 128)):
        folder = tmp_path_factory.mktemp(head)
        tokenizer.save_pretrained(folder)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=head == "tied",
            eos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
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
        "untied": untied,
        "async": replace(untied, in_process=False),
        "adapter": replace(untied, max_lora_rank=8, max_loras=2),
    }
    rollout, rank = ray.remote(RolloutActor), ray.remote(TrainRank)
    handles = {
        name: rollout.options(
            num_cpus=0, max_concurrency=100, runtime_env={"env_vars": environment(chosen)}
        ).remote(chosen, str(folder / f"{name}.log"))
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
TUNERS = {
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
        generation = ray.get(engine.generate.remote(request(f"v{version}", 4)))
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
        generation = ray.get(engine.generate.remote(request(f"v{version}", 4)))
        assert generation.spans == [VersionSpan(version, 0, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1", "v2"]


def test_completions_go_on_across_an_update(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str]
) -> None:
    """In both kinds of engine, which take part in one update."""
    import ray

    handles = {0: engines["untied"].handle, 1: engines["async"].handle}
    ranks.build(Policy(models["untied"], "zero2", LORA), handles)
    first, second = next(VERSIONS), next(VERSIONS)
    assert max(ranks.ask("update", first)) < TOLERANCE
    ranks.ask("disturb", 0)
    long = [h.generate.remote(request("long", 500)) for h in handles.values()]
    # They are written in the same steps: when these end, the others have begun.
    ray.get([h.generate.remote(request("short", 2)) for h in handles.values()])
    differences = ranks.ask("update", second)
    assert len(differences) == 2
    assert max(differences) < TOLERANCE
    for generation in ray.get(long, timeout=60):
        before, after = generation.spans
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
    rollout = ROLLOUT.model_copy(update={"sync_timeout_s": 6.0})
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
        ("end_update", version, [], {1: "update_weights took longer than 6 s"}),
        ("failed_update", [0]),
        ("end_update", version, [0], {}),
    ]
    early, (generation,) = ray.get(pool.completions.remote())
    assert early == 0
    assert generation.spans == [VersionSpan(version, 0, 4)]


@pytest.mark.parametrize(
    ("head", "survivor", "victim", "method"),
    [
        ("tied", "tied", "spare", "update_weights"),
        ("untied", "async", "untied", "start_weight_update"),
    ],
)
def test_an_engine_that_dies_is_reported(
    ranks: Ranks, engines: dict[str, Started], models: dict[str, str],
    head: str, survivor: str, victim: str, method: str,
) -> None:  # fmt: skip
    """The last test, for the victims are gone."""
    import ray

    engine, lost = engines[survivor].handle, engines[victim]
    handles = {0: engine, 1: Struck(lost.handle, lost.pid, signal.SIGKILL, method)}
    pool = ranks.build(Policy(models[head], "zero3", LORA), handles)
    ranks.ask("disturb", 0)
    version = next(VERSIONS)
    (difference,) = ranks.ask("update", version)
    assert difference < TOLERANCE
    assert ranks.difference(engine) < TOLERANCE
    assert ray.get(pool.heard.remote()) == [
        ("end_update", version, [], {1: f"it died in {method} (ActorDiedError)"}),
        ("failed_update", [0]),
        ("end_update", version, [0], {}),
    ]
    early, (generation,) = ray.get(pool.completions.remote())
    assert early == 0
    assert generation.spans == [VersionSpan(version, 0, 4)]
