"""Fixtures for all tests: a model and a tokenizer so small that they are made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.s3_server import s3_process

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SaveLlama = Callable[..., None]

VOCABULARY = 384
END, PAD = "<|im_end|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ASKED = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
"""Settings of a Llama that vLLM can be asked: its attention on CPUs knows heads of this size."""
CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "Who are you? I am a small assistant, made for tests.",
    "What is the capital of France? The capital of France is Paris.",
    "Count to five: one, two, three, four, five.",
)


def pytest_configure() -> None:
    """Sets what libraries read when they are imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Tests share their cores, which threads that spin while they wait would take from others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def save_llama() -> SaveLlama:
    """Saves a Llama model of 350,000 random weights with a tokenizer; other settings by name."""
    return write_llama


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, save_llama: SaveLlama) -> Path:
    """The folder of a Llama model of 350,000 random weights, with a byte-level tokenizer."""
    import torch

    # On a model this small, threads cost more than they gain.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny-model")
    save_llama(folder, make_tokenizer(), vocab_size=VOCABULARY)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 of this machine's own."""
    with s3_process() as address:
        yield address


def write_llama(folder: Path, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer.save_pretrained(folder)
    tiny = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**tiny | settings)).save_pretrained(folder)


@pytest.fixture
def tiny_tokenizer(tiny_model: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `tiny_model`, for one test to do with as it likes."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=["<|im_start|>", END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHATML
    )
