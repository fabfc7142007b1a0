"""What an engine's actor does: asks a chunk's rows, and keeps their answers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.errors import RaysmithError
from jobs.spec.generation import GenerationSpec
from workloads.data.prompts import Prompt, PromptReader
from workloads.data.template import Tokenized
from workloads.engine import EngineSettings
from workloads.generate.answers import Answer, Chunk, Completion, Score, write_chunk
from workloads.process_log import print_to

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

    from workloads.generate.engine import SharedEngine


@dataclass(frozen=True)
class Task:
    """What is asked of a model, and where the answers go."""

    prompts: Path
    """The folder that `prepare_prompts` committed."""
    answers: Path
    """The folder of the chunks' files."""
    logs: Path
    """The folder for what engines print, a file to each process."""
    settings: EngineSettings
    adapter: str | None
    """The folder of an adapter that the model is used with."""
    generation: GenerationSpec | None
    """How rows are answered; None where they are not."""
    n: int
    """Answers to each row."""
    seed: int
    """What samples follow from, with the row's number."""
    most_starts: int
    """How many processes may be started before the task fails."""
    scores: bool
    """Whether the rows' own answers are scored, which needs prompts that were prepared whole."""


class Generator:
    """One engine of the pool, as Ray Data calls it: chunks in, counts out.

    Several threads call it at once, so that the engine begins with the next chunk's rows while the
    longest answers of one are still being written.
    """

    def __init__(self, task: Task, todo: Sequence[Chunk]) -> None:
        """`todo` are the chunks that are counted by the rows of Ray's dataset.

        Raises:
            RaysmithError: if too many processes have been started before.
        """
        # Ray starts as many as it takes, and a chunk may be what they die of.
        print_to(task.logs / f"engine_{os.getpid()}.log")
        if len(list(task.logs.iterdir())) > task.most_starts:
            raise RaysmithError("engines died too often")
        from workloads.generate.engine import SharedEngine

        self._task, self._todo = task, todo
        self._reader = PromptReader(task.prompts)
        self._engine = SharedEngine(task.settings, task.adapter)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Answers chunks. Returns their rows, the tokens that were written, and the seconds."""
        counts: dict[str, list[float]] = {"rows": [], "tokens": [], "seconds": []}
        for index in batch["id"]:
            start = time.monotonic()
            chunk = self._todo[index]
            answers = answer_rows(
                self._engine, self._task, self._reader.read(range(chunk.start, chunk.stop))
            )
            write_chunk(self._task.answers, chunk, answers)
            tokens = (len(c.token_ids) for answer in answers for c in answer.completions)
            counts["rows"].append(chunk.rows)
            counts["tokens"].append(sum(tokens))
            counts["seconds"].append(time.monotonic() - start)
        return counts


def answer_rows(engine: SharedEngine, task: Task, prompts: Sequence[Prompt]) -> list[Answer]:
    """What the model answers to prompts, and how it scores their own answers."""
    asked = [(p, _ask_answer(engine, task, p), _ask_score(engine, task, p)) for p in prompts]
    return [_gathered(*each) for each in asked]


def row_seed(seed: int, row: int) -> int:
    """The seed of a row's samples, the same whichever engine gets it, and when."""
    return int(np.random.SeedSequence([seed, row]).generate_state(1)[0])


def sampling_params(spec: GenerationSpec, n: int, seed: int) -> SamplingParams:
    """How vLLM is to answer a row."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=n,
        max_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        min_p=spec.min_p,
        repetition_penalty=spec.repetition_penalty,
        stop=list(spec.stop),
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _ask_answer(engine: SharedEngine, task: Task, prompt: Prompt) -> Future[RequestOutput] | None:
    if not task.generation:
        return None
    params = sampling_params(task.generation, task.n, row_seed(task.seed, prompt.row))
    return engine.ask(prompt.prompt_ids, params)


def _ask_score(engine: SharedEngine, task: Task, prompt: Prompt) -> Future[RequestOutput] | None:
    if not task.scores or not prompt.whole:
        return None
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    return engine.ask(prompt.whole.input_ids, params)


def _gathered(
    prompt: Prompt,
    answer: Future[RequestOutput] | None,
    score: Future[RequestOutput] | None,
) -> Answer:
    completions: list[Completion] = []
    scored, refusal = None, None
    try:
        if answer:
            completions = [_completion(each) for each in answer.result().outputs]
        if score and prompt.whole:
            scored = _score(prompt.whole, score.result())
    except ValueError as error:
        refusal = str(error)
    return Answer(prompt.row, completions, refusal, scored)


def _completion(output: Any) -> Completion:
    if output.finish_reason not in ("stop", "length"):
        raise ValueError(f"the engine ended the answer with {output.finish_reason!r}")
    return Completion(output.text, list(output.token_ids), output.finish_reason)


def _score(whole: Tokenized, output: RequestOutput) -> Score:
    found = [
        step[token]
        for step, token, learned in zip(
            output.prompt_logprobs or [], whole.input_ids, whole.learned, strict=True
        )
        if learned and step
    ]
    return Score(
        tokens=len(found),
        loss_sum=-sum(each.logprob for each in found),
        right=sum(each.rank == 1 for each in found),
    )
