"""Token ids of a conversation in which the model and an environment take turns.

What the model sampled is kept as it is, id for id: text that is tokenized again may come out as
other ids, whose log-probabilities are not those that were sampled. Only what stands between two of
the model's turns is tokenized, and put behind the ids of the turn before:

    prompt ids | sampled ids | bridge | sampled ids | bridge | sampled ids
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from jobs.errors import UserError
from workloads.data.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Of Unicode's private use area, so that no template looks for it and no text holds it.
_PLACE = "\ue5a1\ue5a2\ue5a1"
_OTHER_ROLE = (
    "let the environment answer with another role, such as user, or give a dataset.chat_template "
    "that takes it"
)


def bridge(
    tokenizer: PreTrainedTokenizerFast,
    conversation: list[Message],
    reply: list[Message],
    ended_with_eos: bool,
) -> list[int]:
    """The ids between the end of what the model sampled and the start of its next turn.

    They are the rest of the model's turn as the chat template ends it, the environment's messages,
    and the prompt for the next turn. What the model said has no influence on them.

    Args:
        tokenizer: with a chat template.
        conversation: what was said so far; ends with the assistant's turn.
        reply: what the environment says to it.
        ended_with_eos: whether the sampled ids end with the token that ends a turn. It then stands
            for the template's own.

    Raises:
        UserError: if the chat template refuses the reply or leaves it out, or leaves out the turn.
    """
    text = _text_after_turn(tokenizer, conversation[:-1], reply)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    mark = _mark_at_start(tokenizer, text)
    if not ended_with_eos or mark is None:
        return ids
    return ids[ids.index(mark) + 1 :]


def _text_after_turn(
    tokenizer: PreTrainedTokenizerFast, before: list[Message], reply: list[Message]
) -> str:
    """What the template writes after a turn of the assistant that stands between the two.

    The turn itself is a placeholder: templates trim what it says, or leave out its thoughts.
    """
    turn: Message = {"role": "assistant", "content": _PLACE}
    text = _render(tokenizer, [*before, turn, *reply])
    for index, message in enumerate(reply, start=len(before) + 1):
        # Some templates pass over roles that they don't know.
        changed = [*before, turn, *reply]
        changed[index] = {"role": message["role"], "content": f"{message['content']}."}
        if _render(tokenizer, changed) == text:
            raise UserError(
                f"the chat template leaves out what the environment says as {message['role']}",
                _OTHER_ROLE,
            )
    parts = text.split(_PLACE)
    if len(parts) != 2:
        raise UserError(
            f"the chat template writes a turn of the assistant {len(parts) - 1} times, where "
            "others follow it",
            "give a dataset.chat_template that writes it once",
        )
    return parts[1]


def _render(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        reason = f"the chat template refuses a conversation of {roles}: {error}"
        raise UserError(reason, _OTHER_ROLE) from error


def _mark_at_start(tokenizer: PreTrainedTokenizerFast, text: str) -> int | None:
    """The special token that a text starts with, white space aside: the end of a turn."""
    start = text.lstrip()
    found = {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if start.startswith(token.content)
    }
    return found[max(found, key=len)] if found else None
