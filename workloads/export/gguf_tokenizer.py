"""Writes a tokenizer into a GGUF file: vocabulary, merges, special tokens, chat template.

llama.cpp has a word for each way of cutting text before it is merged into tokens. It is told here
from the cutting itself, as `tokenizer.json` has it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoTokenizer

from jobs.errors import UserError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}": "qwen2",
}
"""llama.cpp's words for the patterns that text is cut by."""


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Adds the tokenizer in a folder; `vocabulary` is the number of the model's embeddings.

    Raises:
        UserError: if it is of a kind that this writer does not know.
    """
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise UserError(
            f"a tokenizer of type {model['type']} over characters can't be written as GGUF",
            "take `gguf` and `ollama` out; known are tokenizers of type BPE over bytes",
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cutting(content["pre_tokenizer"]))
    tokens, types = _tokens(model["vocab"], content["added_tokens"], vocabulary)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    around = tokenizer("a").input_ids
    special.add_special_token = {
        "bos": around[0] == tokenizer.bos_token_id,
        "eos": around[-1] == tokenizer.eos_token_id,
    }
    special.add_to_gguf(writer, quiet=True)


def _tokens(
    vocab: dict[str, int], added: list[dict[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    """The text and type of each token of the vocabulary, by number."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [int(gguf.TokenType.UNUSED)] * size
    for text, number in vocab.items():
        tokens[number], types[number] = text, gguf.TokenType.NORMAL
    for token in added:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[token["id"]], types[token["id"]] = token["content"], kind
    return tokens, types


def _cutting(found: dict[str, Any]) -> str:
    """llama.cpp's word for how text is cut."""
    steps = found["pretokenizers"] if found["type"] == "Sequence" else [found]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        pattern = steps[0]["pattern"].get("Regex", "")
        if pattern in _PATTERNS:
            return _PATTERNS[pattern]
    raise UserError(
        f"the tokenizer cuts text in a way that has no word in GGUF: {json.dumps(found)[:300]}",
        "take `gguf` and `ollama` out; known are the tokenizers of GPT-2, SmolLM, Llama 3 and Qwen",
    )
