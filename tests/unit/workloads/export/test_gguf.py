"""GGUF files: what transformers reads back computes the same as the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from jobs.errors import UserError
from workloads.export.gguf_file import write_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
}
TEXT = "The quick brown fox: Count to 12, 345 dogs!\n\n  It's who you are. 你好 <|im_end|>"


def make(folder: Path, tokenizer: PreTrainedTokenizerFast, family: str, **changes: Any) -> Path:
    """Saves a model of random weights of a family."""
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    config, model = classes[family]
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = model(config(vocab_size=len(tokenizer) + 3, **ids, **SIZES | changes))
        for name, weight in made.named_parameters():
            # Norms and biases start as ones and zeros, which would hide that they are mixed up.
            if weight.dim() == 1:
                weight.data = torch.rand_like(weight) + ("norm" in name) * 0.5
        made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reread(folder: Path, file: str = "model.gguf") -> Any:
    """The model of a GGUF file as transformers reads it, in float32."""
    config = GgufConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, quantization_config=config
    )


def logits(model: Any) -> torch.Tensor:
    """What a model makes of some tokens."""
    with torch.no_grad():
        return model(input_ids=torch.arange(40).reshape(2, 20)).logits


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": False, "head_dim": 128}),
    ],
)
@pytest.mark.parametrize(("outtype", "share"), [("f32", 1e-5), ("q8_0", 0.03)])
def test_the_file_computes_what_the_model_does(
    tmp_path: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    family: str,
    changes: dict[str, Any],
    outtype: str,
    share: float,
) -> None:
    folder = make(tmp_path / "model", tiny_tokenizer, family, **changes)
    target = tmp_path / "gguf"
    target.mkdir()
    write_gguf(folder, target / "model.gguf", outtype, "some name")
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    found = logits(reread(target))
    assert float((found - expected).abs().max()) < share * float(expected.abs().max())
    if family == "llama":
        again = AutoTokenizer.from_pretrained(target, gguf_file="model.gguf")
        assert again(TEXT).input_ids == tiny_tokenizer(TEXT).input_ids
        assert again.eos_token == tiny_tokenizer.eos_token


@pytest.mark.parametrize(
    ("outtype", "expected"),
    [("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0"), ("q4_0", "Q4_0"), ("q5_1", "Q5_1")],
)
def test_matrices_have_the_type_and_vectors_are_float32(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, outtype: str, expected: str
) -> None:
    folder = make(tmp_path / "model", tiny_tokenizer, "llama", intermediate_size=250)
    write_gguf(folder, tmp_path / "model.gguf", outtype, "some name")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == expected
    assert types["blk.1.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    assert types["token_embd.weight"] == ("Q8_0" if expected.startswith("Q") else expected)
    # 250 is no whole number of blocks of 32.
    assert types["blk.0.ffn_down.weight"] == ("F16" if expected.startswith("Q") else expected)


def test_the_file_tells_what_llama_cpp_asks_for(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    llama3 = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    folder = make(tmp_path / "model", tiny_tokenizer, "llama", rope_parameters=llama3)
    write_gguf(folder, tmp_path / "model.gguf", "f16", "some name")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    assert value("general.architecture") == "llama"
    assert value("general.name") == "some name"
    assert value("llama.rope.freq_base") == 500000
    assert value("llama.attention.head_count_kv") == 2
    assert value("tokenizer.ggml.pre") == "gpt-2"
    assert value("tokenizer.ggml.add_bos_token") is False
    assert value("tokenizer.ggml.eos_token_id") == tiny_tokenizer.eos_token_id
    assert value("tokenizer.chat_template") == tiny_tokenizer.chat_template
    tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == len(tiny_tokenizer) + 3
    assert types[tokens.index("<|im_end|>")] == gguf.TokenType.CONTROL
    assert types[-3:] == [gguf.TokenType.UNUSED] * 3
    factors = next(t for t in reader.tensors if t.name == "rope_freqs.weight").data
    assert (factors[0], factors[-1]) == (1, 8)


def test_what_can_not_be_written_is_told(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = make(tmp_path / "model", tiny_tokenizer, "llama")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())

    def written() -> str:
        with pytest.raises(UserError) as caught:
            write_gguf(folder, tmp_path / "model.gguf", "f16", "some name")
        return caught.value.message

    odd = tokenizer | {"pre_tokenizer": {"type": "Whitespace"}}
    (folder / "tokenizer.json").write_text(json.dumps(odd))
    assert "cuts text in a way that has no word in GGUF" in written()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OtherModel"]}))
    assert written() == "a OtherModel can't be written as GGUF"
