"""Modelfiles: Ollama's template of a chat says what the tokenizer's own does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jobs.errors import UserError
from jobs.spec.export import OllamaSpec
from workloads.export.ollama import chat_turns, modelfile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FOLDED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (messages[0]['content'] if loop.index0 == 1 else '') + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
)
SYSTEMLESS = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"


def test_a_modelfile_has_template_stop_and_parameters(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    spec = OllamaSpec(system="Be brief.", parameters={"temperature": 0.5, "num_ctx": 512})
    assert modelfile(spec, tiny_tokenizer, "model.gguf").splitlines() == [
        "FROM ./model.gguf",
        'TEMPLATE """{{- range .Messages }}{{ if eq .Role "system" }}<|im_start|>system',
        "{{ .Content }}<|im_end|>",
        '{{ else if eq .Role "user" }}<|im_start|>user',
        "{{ .Content }}<|im_end|>",
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant',
        "{{ .Content }}<|im_end|>",
        "{{ end }}{{ end }}<|im_start|>assistant",
        '"""',
        'SYSTEM """Be brief."""',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.5",
        "PARAMETER num_ctx 512",
    ]


def test_the_template_s_own_system_message_is_kept(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert chat_turns(tiny_tokenizer).default_system is None
    tiny_tokenizer.chat_template = DEFAULT_SYSTEM
    assert chat_turns(tiny_tokenizer).default_system == "Be kind."
    assert 'SYSTEM """Be kind."""' in modelfile(OllamaSpec(), tiny_tokenizer, "model.gguf")


@pytest.mark.parametrize("template", [FOLDED, SYSTEMLESS])
def test_a_template_that_does_more_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    tiny_tokenizer.chat_template = template
    with pytest.raises(UserError, match="does more than put text around messages"):
        modelfile(OllamaSpec(), tiny_tokenizer, "model.gguf")


def test_a_text_that_would_end_the_quotes_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(UserError, match="ends a text in a Modelfile"):
        modelfile(OllamaSpec(system='say """ twice'), tiny_tokenizer, "model.gguf")
