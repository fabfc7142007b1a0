"""What engines of both kinds say to vLLM, and understand of what it says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

    from workloads.grpo.engines import Sampling


def sampling_params(sampling: Sampling) -> SamplingParams:
    """How vLLM is to write a completion."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        detokenize=False,
    )


def score_params() -> SamplingParams:
    """How vLLM is to score a text."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)


def prompt_logprobs(output: RequestOutput) -> list[float]:
    """Log-probability of each token of a scored text but the first."""
    steps = (output.prompt_logprobs or [])[1:]
    ids = (output.prompt_token_ids or [])[1:]
    return [step[token].logprob for step, token in zip(steps, ids, strict=True)]


@contextmanager
def faults_of_prompts() -> Iterator[None]:
    """Makes what vLLM refuses of a prompt, such as its length, a `ValueError`."""
    from vllm.exceptions import VLLMValidationError

    try:
        yield
    except VLLMValidationError as error:
        raise ValueError(str(error)) from error


@contextmanager
def death_ends_process() -> Iterator[None]:
    """Ends this process when vLLM's engine process has died, for the pool to replace both."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError:
        os._exit(70)


class Prompts:
    """Prompts as vLLM takes them, and the adapter that is in use."""

    def __init__(self) -> None:
        self.version = 0
        self.adapter: Any = None

    def prompt(self, token_ids: Sequence[int]) -> Any:
        """A prompt as vLLM takes it."""
        # The salt keeps what was cached with older weights from being used with newer ones.
        return {"prompt_token_ids": list(token_ids), "cache_salt": f"weights-{self.version}"}

    def use_adapter(self, path: str, version: int) -> None:
        """From now on prompts go with the adapter in this folder."""
        from vllm.lora.request import LoRARequest

        # A name and path for each version: vLLM tells adapters apart, and caches, by them.
        self.adapter = LoRARequest(f"policy-{version}", version + 1, path)


class Update:
    """How far a weight update has come. vLLM can finish one, but not give one up."""

    def __init__(self) -> None:
        self.incomplete = False
        """Whether weights are half-way replaced, and nothing can be computed with them."""
        self._open = False
        """Whether vLLM takes it to be under way, which after an error in receiving it does not."""

    def begin(self, method: str) -> list[str]:
        """Notes that a method is about to be called. Returns what must be called before it.

        Before a new update, what is left of a broken one is finished: its half-loaded layers would
        mix the weights of both.
        """
        left = method == "start_weight_update" and self.incomplete
        reopened = ["start_weight_update"] if left and not self._open else []
        if method == "start_weight_update":
            self.incomplete = True
        if method in ("start_weight_update", "update_weights"):
            self._open = False
        return [*reopened, "finish_weight_update"] if left else []

    def end(self, method: str) -> None:
        """Notes that a method did its work."""
        if method in ("start_weight_update", "update_weights"):
            self._open = True
        elif method == "finish_weight_update":
            self.incomplete = self._open = False
