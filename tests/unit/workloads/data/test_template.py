"""From conversations to tokens, which of them are learned, and what is cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workloads.data.rows import BadRow, Message, Role
from workloads.data.template import Tokenized, render, shorten, tokenize, tokenize_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

THINK_LAST = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}:"
    "{% if loop.last and m['role'] == 'assistant' %}<think/>{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
SHOUT_LAST = (
    "{% for m in messages %}"
    "{{ m['role'] + ': ' + (m['content'] | upper if loop.last else m['content']) + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ '[' + m['content'] + ']' }}"
    "{% endfor %}"
)


def _messages(*contents: str, system: str = "") -> list[Message]:
    roles: tuple[Role, Role] = ("user", "assistant")
    turns: list[Message] = [
        {"role": roles[index % 2], "content": content} for index, content in enumerate(contents)
    ]
    return [{"role": "system", "content": system}, *turns] if system else turns


def _learned(tokenizer: PreTrainedTokenizerFast, row: Tokenized | BadRow) -> list[str]:
    """The stretches of text that are learned."""
    assert isinstance(row, Tokenized)
    stretches: list[list[int]] = [[]]
    for token, learned in zip(row.input_ids, row.learned, strict=True):
        if learned:
            stretches[-1].append(token)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


def test_the_answer_and_its_end_mark_are_learned(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (row,) = tokenize(tiny_tokenizer, [_messages("Who are you?", "A fox.", system="Be brief.")])
    assert isinstance(row, Tokenized)
    assert tiny_tokenizer.decode(row.input_ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nA fox.<|im_end|>"
    )
    assert _learned(tiny_tokenizer, row) == ["A fox.<|im_end|>"]


def test_every_answer_of_a_conversation_is_learned(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (row,) = tokenize(tiny_tokenizer, [_messages("a", " one\n", "b", "two two", "c", "3")])
    expected = [" one\n<|im_end|>", "two two<|im_end|>", "3<|im_end|>"]
    assert _learned(tiny_tokenizer, row) == expected


def test_offsets_hold_where_a_character_is_many_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = tokenize(
        tiny_tokenizer, [_messages("谁🙂?", "我是é🙂。", "ñ", "👩‍👩‍👧 世界"), _messages("x", "🙂")]
    )
    assert _learned(tiny_tokenizer, rows[0]) == ["我是é🙂。<|im_end|>", "👩‍👩‍👧 世界<|im_end|>"]
    assert _learned(tiny_tokenizer, rows[1]) == ["🙂<|im_end|>"]


def test_training_sees_the_prompt_that_serving_sends(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    messages = _messages("a", "b", "Who?", "A fox.")
    (row,) = tokenize(tiny_tokenizer, [messages])
    assert isinstance(row, Tokenized)
    prompt = tiny_tokenizer.apply_chat_template(
        messages[:3], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert row.input_ids[: len(prompt)] == prompt
    assert row.learned[len(prompt) - 1 :][:2] == [False, True]


def test_a_template_that_changes_earlier_turns_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_tokenizer.chat_template = SHOUT_LAST
    with pytest.raises(BadRow, match="changes what the assistant says in turn"):
        render(tiny_tokenizer, _messages("a", "b", "c", "d"))


def test_turns_are_found_where_the_last_one_gets_a_thought(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_tokenizer.chat_template = THINK_LAST
    text, spans = render(tiny_tokenizer, _messages("a", "one", "b", "two"))
    assert [text[start:stop] for start, stop in spans] == ["one<|im_end|>", "<think/>two<|im_end|>"]


def test_bad_rows_stay_in_their_places(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = NO_SYSTEM
    rows = tokenize(
        tiny_tokenizer,
        [_messages("a", "b", system="s"), _messages("c", "d"), _messages("e", "f", system="s")],
    )
    assert [type(row) for row in rows] == [BadRow, Tokenized, BadRow]
    assert str(rows[0]) == "the chat template refuses it: no system here"
    assert _learned(tiny_tokenizer, rows[1]) == ["[d]"]
    assert [type(row) for row in tokenize(tiny_tokenizer, [_messages("a", "b", system="s")])] == [
        BadRow
    ]
    assert tokenize(tiny_tokenizer, []) == []


def test_a_broken_template_is_a_bad_row(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_tokenizer.chat_template = "{% for m in messages %}"
    with pytest.raises(BadRow, match="the chat template refuses it"):
        render(tiny_tokenizer, _messages("a", "b"))


ROW = Tokenized([1, 2, 3, 4, 5, 6], [False, False, True, True, False, True])


def test_a_row_that_fits_is_kept_whole() -> None:
    assert shorten(ROW, 6, "delete") == ROW
    assert shorten(ROW, 5, "delete") is None


def test_a_row_is_cut_on_the_side_that_is_named() -> None:
    assert shorten(ROW, 4, "right") == Tokenized([1, 2, 3, 4], [False, False, True, True])
    assert shorten(ROW, 3, "left") == Tokenized([4, 5, 6], [False, False, True])


def test_a_first_token_is_never_learned() -> None:
    assert shorten(Tokenized([1, 2], [True, True]), 2, "delete") == Tokenized([1, 2], [False, True])
    assert shorten(ROW, 1, "left") is None


def test_a_row_with_nothing_left_to_learn_is_dropped() -> None:
    assert shorten(ROW, 2, "right") is None
    assert shorten(Tokenized([1, 2], [False, False]), 9, "delete") is None


def test_a_prompt_asks_for_the_model_s_turn(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    (ids,) = tokenize_prompts(tiny_tokenizer, [_messages("a", "b", "c")])
    text = tiny_tokenizer.decode(ids)
    assert not isinstance(ids, BadRow)
    assert text.endswith("<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")
    (whole,) = tokenize(tiny_tokenizer, [_messages("a", "b", "c", "d")])
    assert isinstance(whole, Tokenized)
    assert whole.input_ids[: len(ids)] == ids


def test_a_prompt_that_the_template_refuses_is_bad_and_others_are_not(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tiny_tokenizer.chat_template = NO_SYSTEM
    refused = _messages("a", system="s")
    first, second, third = tokenize_prompts(
        tiny_tokenizer, [_messages("a"), refused, _messages("b")]
    )
    assert isinstance(second, BadRow)
    assert "no system here" in str(second)
    assert [tiny_tokenizer.decode(ids) for ids in (first, third)] == ["[a]", "[b]"]
    assert len(tokenize_prompts(tiny_tokenizer, [refused])) == 1
