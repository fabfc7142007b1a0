"""Compares a quantized model with the one it was made of, on a fixed text."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.errors import RaysmithError
from workloads.export.report import Fidelity

TEXT = Path(__file__).with_name("probe.txt")
"""Prose in two languages, code, arithmetic: some of each that a model may be used for."""

_MAX_TOKENS = 1024


def compare(full: Path, quantized: Path) -> Fidelity:
    """Loads both models with transformers, one after the other, and has them read the text.

    Raises:
        RaysmithError: if the quantized model computes no numbers.
    """
    ids = AutoTokenizer.from_pretrained(full)(
        TEXT.read_text(encoding="utf-8"),
        return_tensors="pt",
        truncation=True,
        max_length=_MAX_TOKENS,
    ).input_ids  # (1, T)
    expected = _logits(full, ids)  # (T, V)
    found = _logits(quantized, ids)
    if not bool(torch.isfinite(found).all()):
        raise RaysmithError(
            "the quantized model's logits are not finite",
            "keep more layers in full precision (quantize.ignore), or use another method",
        )
    difference = (found - expected).abs()
    return Fidelity(
        tokens=len(expected),
        perplexity=_perplexity(found, ids),
        full_perplexity=_perplexity(expected, ids),
        top1_agreement=float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
        mean_logit_difference=float(difference.mean()),
        max_logit_difference=float(difference.max()),
    )


def _logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    longest = getattr(model.config, "max_position_embeddings", None) or _MAX_TOKENS
    with torch.no_grad():
        return model(input_ids=ids[:, :longest].to(model.device)).logits[0].float().cpu()


def _perplexity(logits: torch.Tensor, ids: torch.Tensor) -> float:
    targets = ids[0, 1 : len(logits)]
    loss = torch.nn.functional.cross_entropy(logits[: len(targets)], targets)
    return float(loss.exp())
