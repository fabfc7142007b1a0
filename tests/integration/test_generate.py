"""Batch generation on real vLLM engines over Ray Data: right answers, kills, resumed runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from jobs.errors import ClusterError, RaysmithError
from jobs.spec.dataset import EvaluationRowsSpec
from jobs.spec.generation import GenerationSpec, PoolSpec
from storage.manifest import Owner
from workloads.data.prompts import Prompt, PromptReader, prepare_prompts
from workloads.engine import EngineSettings
from workloads.generate.answers import Answer, chunks, read_answers
from workloads.generate.pool import Tally, generate
from workloads.generate.worker import Task

if TYPE_CHECKING:
    from tests.integration.conftest import OwnRay

pytestmark = [
    pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400),
    # Ray Data warns of its own defaults.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]  # fmt: skip

ROWS, NEW_TOKENS = 100, 8
LONG = 33
"""The row whose prompt the engine refuses."""


@pytest.fixture(scope="module", autouse=True)
def ray_cluster(own_ray: OwnRay) -> Iterator[None]:
    with own_ray(3):
        yield


@pytest.fixture(scope="module")
def model(asked_model: Path) -> Path:
    return asked_model


@pytest.fixture(scope="module")
def prompts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prepared rows; one of them is longer than the engine takes."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [
        {"query": f"{n}? " + "x" * 200 * (n == LONG), "response": f"a {n}"} for n in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = EvaluationRowsSpec(test=("rows.jsonl",), max_length=400)
    owner = Owner("r1", "check", "key", 1)
    prepare_prompts(dataset, (str(folder),), str(model), 1, folder / "data", owner, whole=True)
    return folder / "data"


@pytest.fixture
def task(model: Path, prompts: Path, tmp_path: Path) -> Task:
    settings = EngineSettings(
        model=str(model), dtype="float32", transfer_backend=None, max_model_len=128,
        max_num_seqs=8, seed=0, threads=1, on_gpu=False, in_process=True,
        kv_cache_bytes=64 * 2**20,
    )  # fmt: skip
    return Task(
        prompts=prompts, answers=tmp_path / "answers", logs=tmp_path / "logs", settings=settings,
        adapter=None, generation=GenerationSpec(max_new_tokens=NEW_TOKENS), n=1, seed=7,
        most_starts=3, scores=True,
    )  # fmt: skip


def told(task: Task, pool: PoolSpec, act: Callable[[Tally], None] = print) -> list[Answer]:
    """All answers, in order."""
    assert generate(task, pool, act).rows == ROWS
    return list(read_answers(task.answers, ROWS))


def test_answers_and_scores_are_those_of_transformers(task: Task, model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    answers = told(task, PoolSpec())
    assert [answer.row for answer in answers] == list(range(ROWS))
    refused = answers.pop(LONG)
    assert not refused.completions
    assert "128" in str(refused.refusal)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rows = PromptReader(task.prompts).read(range(ROWS))
    for answer in answers[::7]:
        prompt = rows[answer.row]
        ids = torch.tensor([prompt.prompt_ids])
        with torch.no_grad():
            written = reference.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        (completion,) = answer.completions
        assert completion.token_ids == written[0, ids.shape[1] :].tolist()
        loss_sum, tokens, right = score_of(reference, prompt)
        assert answer.score
        assert (answer.score.tokens, answer.score.right) == (tokens, right)
        assert answer.score.loss_sum == pytest.approx(loss_sum, rel=1e-4)


def score_of(model: Any, prompt: Prompt) -> tuple[float, int, int]:
    """Sum of losses, count, and tokens that are likeliest, of what the assistant says."""
    import torch

    assert prompt.whole
    ids = torch.tensor(prompt.whole.input_ids)
    learned = torch.tensor(prompt.whole.learned)[1:]
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    right = (logits.argmax(-1) == ids[1:])[learned].sum()
    return float(losses[learned].sum()), int(learned.sum()), int(right)


def test_kills_and_resumed_runs_give_the_same_answers(task: Task, tmp_path: Path) -> None:
    sampled = replace(
        task, generation=GenerationSpec(max_new_tokens=NEW_TOKENS, temperature=1.0), n=2,
        scores=False,
    )  # fmt: skip
    whole = told(sampled, PoolSpec())
    assert all(len(answer.completions) == 2 for answer in whole if not answer.refusal)
    assert len({c.text for answer in whole for c in answer.completions}) > ROWS

    again = replace(sampled, answers=tmp_path / "again", logs=tmp_path / "again-logs")
    killed: list[int] = []

    def kill_once(tally: Tally) -> None:
        if tally.rows < ROWS and tally.tokens and not killed:
            (log,) = again.logs.glob("engine_*.log")
            killed.append(int(log.stem.removeprefix("engine_")))
            os.kill(killed[0], signal.SIGKILL)

    assert told(again, PoolSpec(), kill_once) == whole
    assert killed
    assert len(list(again.logs.glob("engine_*.log"))) == 2

    before = {chunk.file(again.answers): chunk for chunk in chunks(ROWS)}
    kept = {file: file.stat().st_mtime_ns for file, chunk in before.items() if chunk.number != 1}
    (missing,) = before.keys() - kept.keys()
    missing.unlink()
    assert told(again, PoolSpec()) == whole
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_an_engine_that_cannot_start_is_an_error_that_says_where_to_look(task: Task) -> None:
    wrong = replace(task, settings=replace(task.settings, max_model_len=100_000))
    with pytest.raises(RaysmithError, match=r"max_model_len(.|\n)*engines' logs in"):
        generate(wrong, PoolSpec(), lambda tally: None)


def test_engines_that_die_each_time_end_the_stage(task: Task) -> None:
    def kill(tally: Tally) -> None:
        for log in task.logs.glob("engine_*.log"):
            process = int(log.stem.removeprefix("engine_"))
            if psutil.pid_exists(process):
                os.kill(process, signal.SIGKILL)

    with pytest.raises(ClusterError, match="engines' processes died 1 times"):
        generate(replace(task, most_starts=1), PoolSpec(), kill)
