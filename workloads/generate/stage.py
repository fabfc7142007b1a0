"""What a stage that asks models does in the driver: find the model, prepare its prompts, ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs.observed import Progress, timestamp, utc_now, write_phase, write_progress
from jobs.spec.dataset import PromptRowsSpec
from jobs.spec.fields import size_bytes
from jobs.spec.generation import GenerationSpec, PoolSpec
from storage.layout import AnswersLayout
from workloads.context import StageContext
from workloads.data.prompts import PreparedPrompts, Prompt, PromptReader, prepare_prompts
from workloads.data.sources import found_template
from workloads.engine import EngineSettings, engine_rank
from workloads.generate.answers import Answer, chunks, read_answers
from workloads.generate.pool import Tally, generate
from workloads.generate.worker import Task
from workloads.models.adapter import base_model, check_adapter, lora_layers, lora_rank
from workloads.models.resolve import read_json
from workloads.models.taken import model_folder, taken_model


@dataclass(frozen=True)
class AskedModel:
    """A model as engines load it."""

    folder: str
    """The full model, or the adapter's base."""
    adapter: str | None
    """The adapter's folder."""
    dtype: str
    """The precision that its weights are kept in; `auto` where its files don't say."""

    @property
    def tokenizer(self) -> str:
        """The folder of the tokenizer: the adapter's own, where it has one."""
        own = self.adapter and Path(self.adapter, "tokenizer_config.json").is_file()
        return str(self.adapter) if own else self.folder


@dataclass(frozen=True)
class Question:
    """What a stage asks a model."""

    dataset: PromptRowsSpec
    generation: GenerationSpec | None
    """How rows are answered; None where they are only scored."""
    n: int = 1
    """Answers to each row."""
    scores: bool = False
    """Whether the rows' own answers are scored."""


@dataclass(frozen=True)
class Answers:
    """What a model answered to each prompt of a dataset."""

    prepared: PreparedPrompts
    layout: AnswersLayout
    tally: Tally

    def __iter__(self) -> Iterator[tuple[Prompt, Answer]]:
        """All prompts with what came of them, in their order, a chunk in memory at a time."""
        reader = PromptReader(self.layout.data)
        answers = read_answers(self.layout.answers, self.prepared.rows)
        for chunk in chunks(self.prepared.rows):
            yield from zip(reader.read(range(chunk.start, chunk.stop)), answers, strict=False)


def find_model(
    context: StageContext, field: str, reference: str, hub_token: str | None
) -> AskedModel:
    """Finds the model that a field of the stage names, and brings it to this machine.

    Raises:
        UserError: if it is an adapter that engines can't take.
    """
    source = taken_model(context, field, reference)
    adapter = Path(source.name) if source.is_adapter else None
    if adapter:
        check_adapter(adapter)
        source = base_model(adapter, context.base_folders)
    write_phase(context.attempt.progress_json, "fetching the model")
    folder = model_folder(source, hub_token)
    config = read_json(Path(folder, "config.json"))
    dtype = config.get("dtype") or config.get("torch_dtype") or "auto"
    return AskedModel(folder, str(adapter) if adapter else None, str(dtype))


def ask_model(
    context: StageContext, name: str, model: AskedModel, question: Question, pool: PoolSpec
) -> Answers:
    """Has a model answer a dataset, or finds that it has. Goes on where an earlier attempt ended.

    `name` tells the stage's models apart.

    Raises:
        SpecError: if there is no row to ask about.
        RaysmithError: if engines can't be made, or died too often.
    """
    layout = context.layout.model(name)
    dataset = found_template(question.dataset, context.base_folders)
    write_phase(context.attempt.progress_json, "reading and tokenizing the rows")
    prepared = prepare_prompts(
        dataset,
        context.base_folders,
        model.tokenizer,
        context.seed,
        layout.data,
        context.owner,
        whole=question.scores,
    )
    generation = question.generation
    written = generation.max_new_tokens if generation else 1
    max_model_len = pool.max_model_len or dataset.max_length + written
    seed = generation.seed if generation and generation.seed is not None else context.seed
    task = Task(
        prompts=layout.data,
        answers=layout.answers,
        logs=context.attempt.engine_logs(name),
        settings=engine_settings(context, model, pool, max_model_len),
        adapter=model.adapter,
        generation=generation,
        n=question.n,
        seed=seed,
        most_starts=pool.actors + pool.max_actor_restarts,
        scores=question.scores,
    )
    write_phase(context.attempt.progress_json, "starting the engines")
    return Answers(prepared, layout, generate(task, pool, partial(_tell, context)))


def engine_settings(
    context: StageContext, model: AskedModel, pool: PoolSpec, max_model_len: int | None
) -> EngineSettings:
    """How a pool's engines are made for a model."""
    adapter = Path(model.adapter) if model.adapter else None
    return EngineSettings(
        model=model.folder,
        dtype=pool.torch_dtype or model.dtype,
        transfer_backend=None,
        max_model_len=max_model_len,
        max_num_seqs=pool.max_num_seqs,
        seed=context.seed % 2**31,
        threads=pool.cpus_per_actor or context.cluster.cpus_per_worker(pool.actors),
        on_gpu=pool.gpus > 0,
        in_process=not pool.gpus,
        tensor_parallel_size=pool.tensor_parallel_size,
        kv_cache_bytes=size_bytes(pool.kv_cache),
        gpu_memory_utilization=pool.gpu_memory_utilization or 0.9,
        enforce_eager=pool.enforce_eager,
        max_lora_rank=engine_rank(lora_rank(adapter)) if adapter else None,
        lora_layers=lora_layers(adapter) if adapter else (),
    )


def _tell(context: StageContext, tally: Tally) -> None:
    if not tally.seconds and tally.rows < tally.of:
        return  # the engines are still starting
    progress = Progress(
        step=tally.rows,
        max_steps=tally.of,
        unit="rows",
        rows_per_second=tally.rows_per_second,
        tokens_per_second=tally.tokens / tally.seconds if tally.seconds else None,
        remaining_s=tally.remaining_s,
        updated_at=timestamp(utc_now()),
    )
    write_progress(context.attempt.progress_json, progress)
