"""Conversations with the calculator in the tokens of the bundled model."""

from __future__ import annotations

import random
from typing import Any

import pytest

from workloads.data.rows import Message
from workloads.environments.calculator import Calculator
from workloads.environments.tokens import bridge
from workloads.models.local import localize
from workloads.models.resolve import resolve_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(localize(resolve_model("smollm2-135m-instruct", ())))


@pytest.mark.parametrize("ended", [True, False])
def test_a_conversation_s_ids_read_as_the_chat_template_writes_it(
    tokenizer: Any, ended: bool
) -> None:
    draw, ordinary = (
        random.Random(0),
        [i for i in range(1000) if i not in tokenizer.all_special_ids],
    )
    environment = Calculator()
    messages = environment.reset([{"role": "user", "content": "What is 12*7 + 1?"}], {})
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    for expression in ("12*7", "84+", "84 + 1", "谁"):
        # What a model samples is seldom what its tokenizer would write.
        noise = tokenizer.decode(draw.choices(ordinary, k=5), errors="ignore").replace("\ufffd", "")
        text = f"{noise} <calculator>{expression}</calculator>"
        sampled = [i for char in text for i in tokenizer(char)["input_ids"]]
        assert tokenizer.decode(sampled) == text
        turn: Message = {"role": "assistant", "content": text}
        step = environment.step([*messages, turn])
        before = list(ids)
        ids += sampled + [tokenizer.eos_token_id] * ended
        ids += bridge(tokenizer, [*messages, turn], step.messages, ended)
        messages += [turn, *step.messages]
        written = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert tokenizer.decode(ids) == written
        assert ids[: len(before) + len(sampled)] == before + sampled
