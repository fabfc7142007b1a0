"""How a model writes calls of tools, told from its chat template."""

from __future__ import annotations

from pathlib import Path

from workloads.models.resolve import read_json

_MARKS = {
    "[TOOL_CALLS]": "mistral",
    "<|python_tag|>": "llama3_json",
    "<｜tool▁calls▁begin｜>": "deepseek_v3",
    "<function=": "qwen3_coder",
}
"""vLLM's parsers by what only templates of their models hold."""
_USUAL = "hermes"
"""`<tool_call>` around JSON, as Qwen and most others write it."""


def parser_for(model: Path) -> str:
    """vLLM's name of the parser for the model in a folder."""
    template = _template(model)
    return next((parser for mark, parser in _MARKS.items() if mark in template), _USUAL)


def _template(model: Path) -> str:
    file = model / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = model / "tokenizer_config.json"
    return str(read_json(config).get("chat_template", "")) if config.is_file() else ""
