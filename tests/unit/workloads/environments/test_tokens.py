"""Bridges between the model's turns: the template's own text, and no id of the model's changed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from jobs.errors import UserError
from workloads.data.rows import Message
from workloads.environments.tokens import bridge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|im_end|>"
SYSTEM_FIRST = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHTFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
NO_MARK = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SPACED = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }} <|im_end|>"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
IGNORES_TOOLS = (
    "{% for m in messages %}{% if m['role'] != 'tool' %}{{ m['content'] }}\n{% endif %}{% endfor %}"
)
USER_FIRST = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no question') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
)
ONLY_LAST = "{{ messages[-1]['content'] }}"
TWICE = "{% for m in messages %}{{ m['content'] }}|{{ m['content'] }}{% endfor %}"

ASKED: list[Message] = [{"role": "user", "content": "What is 6 times 7?"}]
SAID: Message = {"role": "assistant", "content": "Let me see."}
REPLY: list[Message] = [{"role": "user", "content": "It is 42."}]


def spelled(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The text as one id for each byte, as the tokenizer itself would never write it."""
    return [i for char in text for i in tokenizer(char, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("template", [None, SYSTEM_FIRST])
def test_the_ids_of_a_conversation_read_as_the_template_writes_it(
    tiny_tokenizer: PreTrainedTokenizerFast, template: str | None, ended: bool
) -> None:
    tiny_tokenizer.chat_template = template or tiny_tokenizer.chat_template
    draw = random.Random(0)
    messages = list(ASKED)
    ids: list[int] = tiny_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    for turn in ("The quick fox.", " five:\n", "", "谁🙂?"):
        sampled = spelled(tiny_tokenizer, turn)
        messages.append({"role": "assistant", "content": turn})
        reply: list[Message] = [
            {"role": "tool", "content": f"one {draw.random()}"},
            {"role": "user", "content": "Who are you?"},
        ]
        sampled += [tiny_tokenizer.eos_token_id] if ended else []
        ids += sampled + bridge(tiny_tokenizer, messages, reply, ended)
        messages += reply
        assert tiny_tokenizer.decode(ids) == tiny_tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )


def test_a_bridge_has_the_ids_that_the_whole_text_has(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    conversation = [*ASKED, SAID]
    whole = tiny_tokenizer.apply_chat_template(
        [*conversation, *REPLY], add_generation_prompt=True, return_dict=False
    )
    tail = bridge(tiny_tokenizer, conversation, REPLY, ended_with_eos=True)
    assert whole[-len(tail) :] == tail
    assert whole[-len(tail) - 1] == tiny_tokenizer.eos_token_id


def text(tokenizer: PreTrainedTokenizerFast, template: str, turn: str, ended: bool) -> str:
    """The bridge behind a turn."""
    tokenizer.chat_template = template
    conversation: list[Message] = [*ASKED, {"role": "assistant", "content": turn}]
    return str(tokenizer.decode(bridge(tokenizer, conversation, REPLY, ended)))


@pytest.mark.parametrize("turn", ["fine", "  fine\n", "hm</think>fine", "", END])
def test_what_the_model_said_has_no_influence(
    tiny_tokenizer: PreTrainedTokenizerFast, turn: str
) -> None:
    rest = "\n<|im_start|>user\nIt is 42.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert text(tiny_tokenizer, THOUGHTFUL, turn, ended=True) == rest
    assert text(tiny_tokenizer, THOUGHTFUL, turn, ended=False) == END + rest


def test_the_end_of_a_turn_may_come_after_a_space(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rest = "[INST] It is 42. [/INST]"
    assert text(tiny_tokenizer, SPACED, "fine", ended=True) == rest
    assert text(tiny_tokenizer, SPACED, "fine", ended=False) == f" {END}{rest}"


@pytest.mark.parametrize("ended", [True, False])
def test_a_template_may_have_no_end_mark(
    tiny_tokenizer: PreTrainedTokenizerFast, ended: bool
) -> None:
    rest = "\nuser: It is 42.\nassistant:"
    assert text(tiny_tokenizer, NO_MARK, "fine", ended) == rest


def test_a_reply_that_the_template_refuses_is_told(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = SPACED
    reply: list[Message] = [{"role": "tool", "content": "42"}]
    refusal = "refuses a conversation of user, assistant, tool: only user and assistant"
    with pytest.raises(UserError, match=refusal) as caught:
        bridge(tiny_tokenizer, [*ASKED, SAID], reply, ended_with_eos=True)
    assert "such as user" in (caught.value.remedy or "")


def test_a_reply_that_the_template_leaves_out_is_told(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_tokenizer.chat_template = IGNORES_TOOLS
    reply: list[Message] = [*REPLY, {"role": "tool", "content": "42"}]
    with pytest.raises(UserError, match="leaves out what the environment says as tool"):
        bridge(tiny_tokenizer, [*ASKED, SAID], reply, ended_with_eos=True)


def test_the_template_sees_the_whole_conversation(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert text(tiny_tokenizer, USER_FIRST, "fine", ended=True) == f"It is 42.{END}"


def test_the_end_of_a_turn_is_the_longest_token_that_fits(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_tokenizer.add_tokens(["<|im"], special_tokens=True)
    assert text(tiny_tokenizer, USER_FIRST, "fine", ended=True) == f"It is 42.{END}"


@pytest.mark.parametrize(("template", "times"), [(ONLY_LAST, 0), (TWICE, 2)])
def test_a_template_must_write_a_turn_once(
    tiny_tokenizer: PreTrainedTokenizerFast, template: str, times: int
) -> None:
    with pytest.raises(UserError, match=f"writes a turn of the assistant {times} times"):
        text(tiny_tokenizer, template, "fine", ended=True)
