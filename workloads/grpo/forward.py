"""From train rows to log-probabilities of their completions' tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from workloads.grpo.samples import TrainRow


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one pass: prompts padded at the left and completions at the right, side by side."""

    input_ids: Tensor
    """(B, L) int64, of which the last T columns are completions."""
    attention_mask: Tensor
    """(B, L) int64, 0 for padding."""
    position_ids: Tensor
    """(B, L) int64."""
    targets: Tensor
    """(B, T) int64 the completions' tokens."""
    mask: Tensor
    """(B, T) bool, the tokens that are learned."""
    sampler_logp: Tensor
    """(B, T) float32 as the engine said."""
    advantages: Tensor
    """(B,) float32."""
    rows: tuple[int, ...]
    """Where the rows stand in the step's list of rows."""
    keys: tuple[int, ...]
    """Each row's own key."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device."""
        tensors = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def micro_batches(rows: Sequence[TrainRow], size: int, pad_id: int) -> list[MicroBatch]:
    """The rows in passes of `size`, rows of like length together to save padding."""
    order = sorted(
        range(len(rows)), key=lambda i: (-len(rows[i].token_ids), -len(rows[i].prompt_ids), i)
    )
    return [_pad(rows, order[i : i + size], pad_id) for i in range(0, len(order), size)]


def _pad(rows: Sequence[TrainRow], chosen: Sequence[int], pad_id: int) -> MicroBatch:
    before = max(len(rows[i].prompt_ids) for i in chosen)
    after = max(len(rows[i].token_ids) for i in chosen)
    input_ids = torch.full((len(chosen), before + after), pad_id, dtype=torch.int64)
    attention = torch.zeros_like(input_ids)
    mask = torch.zeros(len(chosen), after, dtype=torch.bool)
    sampler = torch.zeros(len(chosen), after)
    for place, index in enumerate(chosen):
        row = rows[index]
        start, stop = before - len(row.prompt_ids), before + len(row.token_ids)
        input_ids[place, start:stop] = torch.tensor([*row.prompt_ids, *row.token_ids])
        attention[place, start:stop] = 1
        mask[place, : len(row.learned)] = torch.tensor(row.learned)
        sampler[place, : len(row.logprobs)] = torch.tensor(row.logprobs)
    return MicroBatch(
        input_ids=input_ids,
        attention_mask=attention,
        position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
        targets=input_ids[:, before:],
        mask=mask,
        sampler_logp=sampler,
        advantages=torch.tensor([rows[i].advantage for i in chosen], dtype=torch.float32),
        rows=tuple(chosen),
        keys=tuple(rows[i].key for i in chosen),
    )


def token_logps(
    model: Callable[..., Any], batch: MicroBatch, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each learned token, and the entropy of what it was drawn from.

    Returns:
        logp: (B, T) float32, after temperature; 0 at masked places.
        entropy: (B, T) float32 without gradient, in nats; 0 at masked places.
    """
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=batch.targets.shape[1] + 1,
        use_cache=False,
    )
    logits = output.logits[:, :-1][batch.mask]  # (N, V)
    logps = torch.log_softmax(logits.float() / temperature, dim=-1)
    chosen = logps.gather(-1, batch.targets[batch.mask][:, None]).squeeze(-1)  # (N,)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)
    zeros = logps.new_zeros(batch.mask.shape)
    return zeros.masked_scatter(batch.mask, chosen), zeros.masked_scatter(batch.mask, entropy)


def text_logps(model: Callable[..., Any], token_ids: Sequence[int], device: Any) -> list[float]:
    """Log-probability of each token of a text but the first, without temperature."""
    ids = torch.tensor([list(token_ids)], device=device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    logps = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
    values: list[float] = logps.tolist()
    return values
