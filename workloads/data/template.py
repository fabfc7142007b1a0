"""From a conversation to token ids and the mask of the tokens that are learned.

The conversation is rendered once by the chat template and tokenized once, so that training sees
the very ids that the served model will see. The assistant's turns are found as stretches of the
rendered text: from the end of the prompt that asks for a turn, to the end of that turn with its
end mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jinja2.exceptions import TemplateError

from workloads.data.rows import BadRow, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Tokenized:
    """One conversation as tokens."""

    input_ids: list[int]
    """(T,) token ids."""
    learned: list[bool]
    """(T,) whether a token belongs to a turn of the assistant."""


def render(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message]
) -> tuple[str, list[tuple[int, int]]]:
    """The conversation's text, and the stretches of it that the assistant says.

    Raises:
        BadRow: if the template refuses the conversation, or renders a turn in more than one way.
    """
    try:
        text = _apply(tokenizer, messages)
        spans: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                spans.append(_span(tokenizer, messages, index, text, spans[-1][1] if spans else 0))
    except TemplateError as error:
        raise BadRow(f"the chat template refuses it: {error}") from error
    return text[: spans[-1][1]], spans


def _apply(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], prompt: bool = False
) -> str:
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return str(rendered)


def _span(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], index: int, text: str, start: int
) -> tuple[int, int]:
    """Where turn `index` of the assistant stands in `text`, at `start` or later."""
    before = _apply(tokenizer, messages[:index], prompt=True)
    after = _apply(tokenizer, messages[: index + 1]).rstrip()
    if text.startswith(after) and after.startswith(before):
        return len(before), len(after)
    # Templates of reasoning models render a turn otherwise once others follow, or ask for it with
    # the beginning of a thought. The turn's own text stands in the conversation all the same.
    content = messages[index]["content"].strip()
    begin = text.find(content, start)
    if begin < 0:
        raise BadRow(
            f"the chat template changes what the assistant says in turn {index + 1}, so it can't "
            "be told apart"
        )
    stop = begin + len(content)
    mark = _end_mark(text, messages[-1]["content"].strip())
    return begin, stop + len(mark) if text.startswith(mark, stop) else stop


def _end_mark(text: str, last: str) -> str:
    """What the template puts behind the last turn."""
    return text[text.rfind(last) + len(last) :].rstrip()


def tokenize(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[list[Message]]
) -> list[Tokenized | BadRow]:
    """The conversations as tokens, each or the reason why it can't be one."""
    rendered = [_try_render(tokenizer, messages) for messages in conversations]
    texts = [item[0] for item in rendered if not isinstance(item, BadRow)]
    if not texts:
        return [item for item in rendered if isinstance(item, BadRow)]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    tokens = iter(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    return [
        item if isinstance(item, BadRow) else _mask(*next(tokens), item[1]) for item in rendered
    ]


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[list[Message]]
) -> list[list[int] | BadRow]:
    """The ids of each conversation with what asks for the model's turn, or why it has none."""
    rendered = [_try_prompt(tokenizer, messages) for messages in conversations]
    texts = [item for item in rendered if isinstance(item, str)]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else ())
    return [item if isinstance(item, BadRow) else next(ids) for item in rendered]


def _try_prompt(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> str | BadRow:
    try:
        return _apply(tokenizer, messages, prompt=True)
    except TemplateError as error:
        return BadRow(f"the chat template refuses it: {error}")


def _try_render(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message]
) -> tuple[str, list[tuple[int, int]]] | BadRow:
    try:
        return render(tokenizer, messages)
    except BadRow as error:
        return error


def _mask(
    ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> Tokenized:
    learned = [False] * len(ids)
    span = 0
    for index, (start, stop) in enumerate(offsets):
        while span < len(spans) and start >= spans[span][1]:
            span += 1
        if span == len(spans):
            break
        learned[index] = stop > spans[span][0] and start >= spans[span][0]
    return Tokenized(ids, learned)


def shorten(
    row: Tokenized, max_length: int, strategy: Literal["delete", "left", "right"]
) -> Tokenized | None:
    """The row in at most `max_length` tokens, or None where it is dropped.

    A row is dropped, too, when nothing that is learned is left of it. A first token is never
    learned, since nothing comes before it to tell it from.
    """
    ids, learned = row.input_ids, [False, *row.learned[1:]]
    if len(ids) > max_length:
        if strategy == "delete":
            return None
        part = slice(-max_length, None) if strategy == "left" else slice(max_length)
        ids, learned = ids[part], learned[part]
        learned[0] = False
    return Tokenized(ids, learned) if any(learned) else None
