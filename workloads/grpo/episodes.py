"""From a prompt to its completions: one turn, or several with an environment between them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import UserError
from jobs.spec.grpo import GrpoSpec
from workloads.data.prompts import Prompt
from workloads.data.rows import Message
from workloads.failures import root
from workloads.grpo.engines import Generation, Request, Sampling
from workloads.grpo.fleet import Fleet
from workloads.grpo.rollout import DataFailure
from workloads.grpo.samples import Sample


class _BrokenEnvironment(Exception):
    """What an environment did wrong."""


@dataclass
class Episodes:
    """Writes completions; the tokens that the model sampled are never tokenized again."""

    spec: GrpoSpec
    fleet: Fleet
    tokenizer: Any
    eos_ids: frozenset[int]
    seed: int
    environment: Any = None
    """The actor in which environments run; None where there is none."""

    @classmethod
    async def start(
        cls, spec: GrpoSpec, model: str, paths: Sequence[str], fleet: Fleet, seed: int
    ) -> Episodes:
        """Loads the tokenizer, and starts the environment's actor."""
        from workloads.data.prepare import load_tokenizer

        tokenizer = await asyncio.to_thread(load_tokenizer, model, spec.dataset.chat_template)
        environment = None
        if spec.environment:
            from workloads.grpo.environment_actor import start_environments

            environment = start_environments(spec.environment, paths)
        eos = await asyncio.to_thread(end_tokens, model, tokenizer)
        return cls(spec, fleet, tokenizer, eos, seed, environment)

    async def complete(
        self, uid: str, prompt: Prompt, number: int, preferred: int | None,
        wrote: Callable[[], None],
    ) -> Sample:  # fmt: skip
        """One completion. What fails because of the prompt is told in the sample.

        Raises:
            RaysmithError: if the fleet has given up.
        """
        sample = Sample(number)
        if self.environment is None:
            await self._turn(sample, uid, 0, list(prompt.prompt_ids), preferred)
        else:
            await self._episode(sample, uid, prompt, preferred)
        wrote()
        return sample

    async def _episode(
        self, sample: Sample, uid: str, prompt: Prompt, preferred: int | None
    ) -> None:
        from workloads.environments.tokens import bridge

        settings = self.spec.environment
        assert settings is not None
        name = f"{uid}/{sample.number}"
        try:
            opening = await self._ask(
                self.environment.reset.remote(name, prompt.messages, prompt.columns)
            )
            prompt_ids = list(prompt.prompt_ids)
            if opening != prompt.messages:
                prompt_ids = self._render(opening)
                sample.prompt_ids = prompt_ids
            room = self.spec.rollout.max_model_len or 0
            total = 0.0
            for turn in range(settings.max_turns):
                context = prompt_ids + sample.token_ids
                if len(context) + 1 >= room:
                    if not sample.token_ids:
                        raise _BrokenEnvironment(
                            f"its opening has {len(context)} tokens, and max_model_len is {room}"
                        )
                    sample.truncated = True
                    break
                await self._turn(sample, uid, turn, context, preferred, room - len(context))
                if sample.failures or sample.truncated:
                    break
                conversation = [*opening, *sample.messages]
                step = await self._ask(self.environment.step.remote(name, conversation))
                total += step.reward
                if step.done or turn + 1 == settings.max_turns:
                    break
                ended = sample.token_ids[-1] in self.eos_ids
                try:
                    reply = bridge(self.tokenizer, conversation, step.messages, ended)
                except UserError as error:
                    raise _BrokenEnvironment(str(error)) from error
                sample.token_ids += reply
                sample.learned += [False] * len(reply)
                sample.logprobs += [0.0] * len(reply)
                sample.messages += step.messages
            sample.environment_reward = total
        except _BrokenEnvironment as error:
            sample.failures["environment"] = str(error)
        finally:
            self.environment.close.remote(name)

    async def _ask(self, call: Any) -> Any:
        """What the environment answers. It is the user's, so any fault of it is its own."""
        assert self.spec.environment is not None
        limit = self.spec.environment.timeout_s
        try:
            return await asyncio.wait_for(call, limit)
        except TimeoutError:
            raise _BrokenEnvironment(f"a step took longer than {limit:g} s") from None
        except Exception as error:
            cause = root(error)
            raise _BrokenEnvironment(f"{type(cause).__name__}: {cause}") from error

    async def _turn(
        self, sample: Sample, uid: str, turn: int, context: list[int], preferred: int | None,
        room: int | None = None,
    ) -> None:  # fmt: skip
        rollout = self.spec.rollout
        limit = rollout.max_completion_length
        sampling = Sampling(
            rollout.temperature,
            limit if room is None else min(limit, room - 1),
            _seed(self.seed, uid, sample.number, turn),
        )
        request = Request(f"{uid}/{sample.number}/{turn}", context, sampling)
        written, _ = await self.fleet.generate(request, preferred)
        if isinstance(written, DataFailure):
            sample.failures["generation"] = written.reason
            return
        self._add(sample, written)

    def _add(self, sample: Sample, written: Generation) -> None:
        sample.token_ids += written.token_ids
        sample.learned += [True] * len(written.token_ids)
        sample.logprobs += written.logprobs
        said = self.tokenizer.decode(written.token_ids, skip_special_tokens=True)
        sample.messages.append({"role": "assistant", "content": said})
        sample.truncated = written.finish_reason == "length"
        versions = [span.version for span in written.spans]
        before = sample.versions or (min(versions), max(versions))
        sample.versions = (min(before[0], *versions), max(before[1], *versions))

    def _render(self, messages: list[Message]) -> list[int]:
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return list(ids)


def _seed(seed: int, uid: str, number: int, turn: int) -> int:
    text = f"{seed},{uid},{number},{turn}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())


def end_tokens(model: str, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a turn: the tokenizer's, and those of the model's generation config."""
    from transformers import GenerationConfig

    try:
        configured = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        configured = None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (tokenizer.eos_token_id, *ids) if i is not None)
