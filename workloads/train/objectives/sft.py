"""Supervised fine-tuning: cross-entropy of the learned tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn.functional import cross_entropy

from workloads.train.batches import IGNORED, MicroBatch
from workloads.train.objectives import Objective


def objective(model: Callable[..., Any], batch: MicroBatch) -> Objective:
    """The sum of -log p(token | tokens before it) over the learned tokens.

    Logits are computed only at places that some row learns from: with a vocabulary far wider than
    the model they are a large share of a step.
    """
    targets = batch.labels[:, 1:]
    places = (targets != IGNORED).any(dim=0).nonzero().flatten()  # (K,)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        logits_to_keep=places,
        use_cache=False,
    )
    targets = targets[:, places].flatten()  # (B*K,)
    logits = output.logits.flatten(0, 1)[targets != IGNORED]  # (N, V)
    targets = targets[targets != IGNORED]  # (N,)
    loss = cross_entropy(logits.float(), targets, reduction="sum")
    return Objective(loss, (logits.detach().argmax(dim=-1) == targets).sum())
