"""vLLM behind one interface: in this process on CPUs, with a process of its own on GPUs.

Token ids go in; token ids come out with the log-probabilities they were sampled with, and the
versions of the weights that sampled them. Weights are updated between two steps of an engine;
completions that are under way go on with the new ones.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from workloads.engine_environment import engine_environment
from workloads.grpo.vllm_calls import (
    Prompts,
    Update,
    death_ends_process,
    faults_of_prompts,
    prompt_logprobs,
    sampling_params,
    score_params,
)

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

_EXTENSION = "workloads.grpo.gloo_transfer.WorkerExtension"


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is made."""

    model: str
    """The model's folder."""
    dtype: str
    transfer_backend: str
    """vLLM's name of what weights arrive by."""
    max_model_len: int
    max_num_seqs: int
    seed: int
    threads: int
    """CPU cores to compute with."""
    on_gpu: bool
    in_process: bool
    tensor_parallel_size: int = 1
    kv_cache_bytes: int = 2**30
    """Of engines on CPUs."""
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    sleeps: bool = False
    """Whether it gives its GPU's memory back between generations."""
    max_lora_rank: int | None = None
    """The rank of adapters that are sent instead of all weights; None where all are."""
    max_loras: int = 1


@dataclass(frozen=True)
class Sampling:
    """How to write one completion."""

    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Request:
    """One completion to write. The id is its own for all time."""

    request_id: str
    prompt_ids: Sequence[int]
    sampling: Sampling


@dataclass(frozen=True)
class VersionSpan:
    """Tokens `start` to `stop` - 1 of a completion were sampled with this version's weights."""

    version: int
    start: int
    stop: int


@dataclass(frozen=True)
class Generation:
    """What an engine wrote."""

    token_ids: list[int]
    """(T,) including the token that ended it."""
    logprobs: list[float]
    """(T,) log-probability of each token, after temperature."""
    spans: list[VersionSpan]
    finish_reason: str
    """`stop` where the model ended it, `length` where it was cut off."""


class Engine(Protocol):
    """One vLLM engine."""

    async def generate(self, request: Request) -> Generation:
        """Writes one completion, together with all others that are asked for meanwhile.

        Raises:
            ValueError: if the prompt is too long, or otherwise no prompt for this model.
        """

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-probability of each token but the first, given those before it, untempered."""

    async def call(self, method: str, *args: Any) -> Any:
        """Calls a method of vLLM between two steps."""

    async def load_adapter(self, path: str, version: int) -> None:
        """From now on completions are written with the adapter in this folder."""


def environment(settings: EngineSettings) -> dict[str, str]:
    """What must be in an engine's environment before vLLM is imported."""
    values = engine_environment(
        on_gpu=settings.on_gpu, threads=settings.threads, kv_cache_bytes=settings.kv_cache_bytes
    )
    if settings.transfer_backend == "ipc":
        # Its handles, which come from our own trainer alone, are no plain data.
        values["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if settings.in_process or not settings.on_gpu:
        values["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return values


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """vLLM's arguments."""
    from vllm.config import WeightTransferConfig

    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "seed": settings.seed,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "enforce_eager": settings.enforce_eager or not settings.on_gpu,
        "tensor_parallel_size": settings.tensor_parallel_size,
        # Of the distribution that is sampled from, so after temperature.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "weight_transfer_config": WeightTransferConfig(backend=settings.transfer_backend),
    }
    if settings.on_gpu:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
        arguments["enable_sleep_mode"] = settings.sleeps
    else:
        arguments["worker_extension_cls"] = _EXTENSION
        arguments["kv_cache_memory_bytes"] = settings.kv_cache_bytes
    if settings.max_lora_rank:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": settings.max_lora_rank,
            "max_loras": settings.max_loras,
        }
    return arguments


def start_engine(settings: EngineSettings) -> Engine:
    """An engine that is ready. Takes seconds to minutes; call it in the actor's event loop."""
    return InProcessEngine(settings) if settings.in_process else AsyncEngine(settings)


def _generation(output: RequestOutput) -> Generation:
    completion = output.outputs[0]
    if completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"the engine ended a completion with {completion.finish_reason!r}")
    ids = list(completion.token_ids)
    logprobs = [step[token].logprob for step, token in zip(completion.logprobs, ids, strict=True)]
    spans = [
        VersionSpan(_version(span.version), span.start, span.end)
        for span in completion.weight_versions or ()
    ]
    return Generation(ids, logprobs, spans, str(completion.finish_reason))


def _version(text: str) -> int:
    return int(text) if text.isdigit() else -1


class InProcessEngine:
    """vLLM's `LLM` in a thread of its own, which alone touches it."""

    def __init__(self, settings: EngineSettings) -> None:
        self._prompts = Prompts()
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]
        self._commands = queue.SimpleQueue()
        self._waiting: dict[str, Future[RequestOutput]] = {}
        self._scored = 0
        self._update = Update()
        ready: Future[None] = Future()
        thread = threading.Thread(target=self._run, args=(settings, ready), name="engine")
        thread.daemon = True
        thread.start()
        ready.result()

    async def generate(self, request: Request) -> Generation:
        """See `Engine`."""
        output = await self._submit(
            request.request_id, request.prompt_ids, sampling_params(request.sampling)
        )
        return _generation(output)

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `Engine`."""
        self._scored += 1
        name = f"score-{self._scored}"
        return prompt_logprobs(await self._submit(name, token_ids, score_params()))

    async def call(self, method: str, *args: Any) -> Any:
        """See `Engine`."""

        def run() -> Any:
            for earlier in self._update.begin(method):
                getattr(self._llm, earlier)()
            # What is asked for from now on is computed with the new weights.
            self._prompts.version += method == "start_weight_update"
            result = getattr(self._llm, method)(*args)
            self._update.end(method)
            return result

        return await asyncio.wrap_future(self._command(run))

    async def load_adapter(self, path: str, version: int) -> None:
        """See `Engine`."""

        def run() -> None:
            self._prompts.use_adapter(path, version)
            self._llm.update_weight_version(str(version))

        await asyncio.wrap_future(self._command(run))

    async def _submit(
        self, name: str, token_ids: Sequence[int], params: SamplingParams
    ) -> RequestOutput:
        finished: Future[RequestOutput] = Future()

        def add() -> None:
            prompt = self._prompts.prompt(token_ids)
            with faults_of_prompts():
                self._llm.llm_engine.add_request(
                    name, prompt, params, lora_request=self._prompts.adapter
                )
            self._waiting[name] = finished

        def abort() -> None:
            if self._waiting.pop(name, None):
                self._llm.llm_engine.abort_request([name])

        try:
            await asyncio.wrap_future(self._command(add))
            return await asyncio.wrap_future(finished)
        except asyncio.CancelledError:
            self._command(abort)
            raise

    def _command(self, function: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        self._commands.put((function, done))
        return done

    def _run(self, settings: EngineSettings, ready: Future[None]) -> None:
        try:
            from vllm import LLM

            self._llm = LLM(**engine_arguments(settings))
        except BaseException as error:  # noqa: BLE001 - whoever made the engine gets it
            ready.set_exception(error)
            return
        ready.set_result(None)
        engine = self._llm.llm_engine
        while True:
            # Sleeps while there is nothing to do.
            while not self._commands.empty() or not self._can_step():
                self._obey(*self._commands.get())
            try:
                outputs = engine.step()
            except BaseException:  # noqa: BLE001 - it ends this process
                # The engine can't be trusted any more, and the pool replaces dead actors.
                import traceback

                traceback.print_exc()
                os._exit(70)
            for output in outputs:
                waiting = self._waiting.pop(output.request_id, None) if output.finished else None
                if waiting and waiting.set_running_or_notify_cancel():
                    waiting.set_result(output)

    def _can_step(self) -> bool:
        return not self._update.incomplete and bool(self._llm.llm_engine.has_unfinished_requests())

    @staticmethod
    def _obey(function: Callable[[], Any], done: Future[Any]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(function())
        except Exception as error:  # noqa: BLE001 - the caller gets it
            done.set_exception(error)


class AsyncEngine:
    """vLLM's `AsyncLLM`, whose engine runs in a process of its own."""

    def __init__(self, settings: EngineSettings) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._prompts = Prompts()
        self._update = Update()
        self._scored = 0
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(settings)))

    async def generate(self, request: Request) -> Generation:
        """See `Engine`."""
        output = await self._last(
            request.request_id, request.prompt_ids, sampling_params(request.sampling)
        )
        return _generation(output)

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `Engine`."""
        self._scored += 1
        name = f"score-{self._scored}"
        return prompt_logprobs(await self._last(name, token_ids, score_params()))

    async def call(self, method: str, *args: Any) -> Any:
        """See `Engine`."""
        if method == "start_weight_update":
            await self._llm.pause_generation(mode="keep", clear_cache=False)
            self._prompts.version += 1
        with death_ends_process():
            for earlier in self._update.begin(method):
                await getattr(self._llm, earlier)()
            result = await getattr(self._llm, method)(*args)
            self._update.end(method)
            if method == "finish_weight_update":
                await self._llm.resume_generation()
        return result

    async def load_adapter(self, path: str, version: int) -> None:
        """See `Engine`."""
        self._prompts.use_adapter(path, version)
        await self._llm.update_weight_version(str(version))

    async def _last(
        self, name: str, token_ids: Sequence[int], params: SamplingParams
    ) -> RequestOutput:
        prompt = self._prompts.prompt(token_ids)
        last = None
        with death_ends_process(), faults_of_prompts():
            async for output in self._llm.generate(
                prompt, params, name, lora_request=self._prompts.adapter
            ):
                last = output
        assert last is not None
        return last
