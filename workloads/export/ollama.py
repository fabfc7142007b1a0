"""Writes a Modelfile: Ollama's template of a chat, told from the tokenizer's own.

The tokenizer's template is a program, and Ollama's another. So a conversation is rendered with the
first, taken apart into what stands around each message, and put into the words of the second; then
it is checked that both agree on other conversations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.errors import UserError
from jobs.spec.export import OllamaSpec

Message = dict[str, str]


@dataclass(frozen=True)
class Turns:
    """What stands before and behind each message of a conversation."""

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    reply: str
    """What asks for the next answer."""
    default_system: str | None
    """The system message of conversations that have none."""

    def render(self, messages: list[Message]) -> str:
        """The text of a conversation, up to where the answer begins."""
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        if self.default_system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        text = "".join(
            f"{around[m['role']][0]}{m['content']}{around[m['role']][1]}" for m in messages
        )
        return text + self.reply


def modelfile(spec: OllamaSpec, tokenizer: Any, gguf_file: str) -> str:
    """The text of a Modelfile for a GGUF file beside it.

    Raises:
        UserError: if the chat template can't be put into Ollama's words.
    """
    turns = chat_turns(tokenizer)
    system = spec.system if spec.system is not None else turns.default_system
    lines = [f"FROM ./{gguf_file}", f"TEMPLATE {_quoted(_template(turns))}"]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines.append(f"PARAMETER stop {_stop(tokenizer)}")
    lines += [f"PARAMETER {key} {value}" for key, value in spec.parameters.items()]
    return "\n".join(lines) + "\n"


def chat_turns(tokenizer: Any) -> Turns:
    """What a tokenizer's chat template puts around messages.

    Raises:
        UserError: if it has none, or one that does more than that.
    """
    if not tokenizer.chat_template:
        raise UserError("the model has no chat template", "take `ollama` out; `gguf` can stay")
    say = [
        {"role": "system", "content": "<<SYSTEM>>"},
        {"role": "user", "content": "<<USER>>"},
        {"role": "assistant", "content": "<<ASSISTANT>>"},
    ]
    first, second, third = (_rendered(tokenizer, say[:count]) for count in (1, 2, 3))
    asked = _rendered(tokenizer, say[:2], reply=True)
    alone = _rendered(tokenizer, say[1:2])
    if not (second.startswith(first) and third.startswith(second) and asked.startswith(second)):
        raise _irregular()
    system = _around(first, "<<SYSTEM>>")
    user = _around(second.removeprefix(first), "<<USER>>")
    assistant = _around(third.removeprefix(second), "<<ASSISTANT>>")
    before = alone.removesuffix(f"{user[0]}<<USER>>{user[1]}")
    default = None
    if before.startswith(system[0]) and before.endswith(system[1]) and before != alone:
        default = before[len(system[0]) : len(before) - len(system[1])] if before else None
    turns = Turns(system, user, assistant, asked.removeprefix(second), default)
    for messages in ([*say, say[1]], [say[1], say[2], say[1]]):
        if turns.render(messages) != _rendered(tokenizer, messages, reply=True):
            raise _irregular()
    return turns


def _rendered(tokenizer: Any, messages: list[Message], reply: bool = False) -> str:
    """A conversation as text, without the first token that every text gets."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
    except TemplateError as error:
        raise _irregular() from error
    begin = tokenizer.bos_token
    adds = begin and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return text.removeprefix(begin) if adds else text


def _around(text: str, content: str) -> tuple[str, str]:
    before, found, behind = text.partition(content)
    if not found:
        raise _irregular()
    return before, behind


def _irregular() -> UserError:
    return UserError(
        "the chat template does more than put text around messages, which Ollama's can't",
        "take `ollama` out; `gguf` can stay, and programs of llama.cpp read the template from it",
    )


def _template(turns: Turns) -> str:
    """The conversation in Go's template language, as Ollama reads it."""
    parts = {"system": turns.system, "user": turns.user, "assistant": turns.assistant}
    if any("{{" in text for around in parts.values() for text in (*around, turns.reply)):
        raise _irregular()
    cases = "else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}{{{{ '
        for role, (before, behind) in parts.items()
    )
    return f"{{{{- range .Messages }}}}{{{{ {cases}end }}}}{{{{ end }}}}{turns.reply}"


def _stop(tokenizer: Any) -> str:
    return f'"{tokenizer.eos_token}"'


def _quoted(text: str) -> str:
    if '"""' in text:
        raise UserError(f'{text!r} holds """, which ends a text in a Modelfile', "leave it out")
    return f'"""{text}"""'
