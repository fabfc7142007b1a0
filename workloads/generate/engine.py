"""One vLLM engine that several threads ask at once, so that it is never short of work."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from workloads.engine import EngineSettings, engine_arguments
from workloads.grpo.vllm_calls import faults_of_prompts

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

    Asked = tuple[list[int], SamplingParams, Future[RequestOutput]]


class SharedEngine:
    """vLLM's `LLM` in a thread of its own, which alone touches it."""

    def __init__(self, settings: EngineSettings, adapter: str | None) -> None:
        """Loads the model, and `adapter` for all that is asked. Takes seconds to minutes."""
        self._asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._waiting: dict[str, Future[RequestOutput]] = {}
        self._count = 0
        ready: Future[None] = Future()
        arguments = (settings, adapter, ready)
        threading.Thread(target=self._run, args=arguments, name="engine", daemon=True).start()
        ready.result()

    def ask(self, token_ids: Sequence[int], params: SamplingParams) -> Future[RequestOutput]:
        """Asks for what `params` say of a prompt.

        The result is a `ValueError` where the engine refuses the prompt, such as for its length.
        """
        answer: Future[RequestOutput] = Future()
        self._asked.put((list(token_ids), params, answer))
        return answer

    def _run(self, settings: EngineSettings, adapter: str | None, ready: Future[None]) -> None:
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest

            engine = LLM(**engine_arguments(settings)).llm_engine
            lora = LoRARequest("adapter", 1, adapter) if adapter else None
        except BaseException as error:  # noqa: BLE001 - whoever made the engine gets it
            ready.set_exception(error)
            return
        ready.set_result(None)
        while True:
            # Sleeps while there is nothing to do.
            while not self._asked.empty() or not engine.has_unfinished_requests():
                self._add(engine, lora, *self._asked.get())
            try:
                outputs = engine.step()
            except BaseException:  # noqa: BLE001 - it ends this process
                # The engine can't be trusted any more, and Ray replaces dead actors.
                traceback.print_exc()
                os._exit(70)
            for output in outputs:
                if output.finished:
                    self._waiting.pop(output.request_id).set_result(output)

    def _add(
        self, engine: Any, lora: Any, token_ids: list[int], params: SamplingParams,
        answer: Future[RequestOutput],
    ) -> None:  # fmt: skip
        name = str(self._count)
        self._count += 1
        try:
            with faults_of_prompts():
                engine.add_request(name, {"prompt_token_ids": token_ids}, params, lora_request=lora)
        except ValueError as error:
            answer.set_exception(error)
        else:
            self._waiting[name] = answer
