"""From train rows to log-probabilities of their completions' tokens.

Completions of one prompt can share it: they follow it one after the other in one sequence, where
each attends to the prompt and to itself, at the positions that it would have alone. The prompt is
then computed once. Attention between completions is computed in vain, so it is done where that
costs less than the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from workloads.grpo.samples import TrainRow


@dataclass(frozen=True)
class Costs:
    """What a model's pass costs, in floating-point operations."""

    token: float
    """Of a token, attention aside."""
    pair: float
    """Of a token that looks at another one."""
    can_share: bool
    """Whether its attention takes a mask of our own."""

    @classmethod
    def of(cls, model: Any) -> Costs:
        """The costs of a causal language model of transformers; 2 operations for each weight."""
        config = model.config
        embedding = getattr(model.get_input_embeddings().weight, "ds_numel", None)
        embedding = embedding or model.get_input_embeddings().weight.numel()
        weights = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()) - embedding
        windows = getattr(config, "sliding_window", None) or any(
            kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()
        )
        shares = not windows and getattr(config, "_attn_implementation", "") == "sdpa"
        return cls(2.0 * weights, 4.0 * config.hidden_size * config.num_hidden_layers, shares)


@dataclass(frozen=True)
class MicroBatch:
    """B completions of one pass, in R sequences: prompts end and completions begin in one column.

    Prompts are padded at the left, and what follows them at the right.
    """

    input_ids: Tensor
    """(R, L) int64, of which the last K - 1 columns are completions."""
    attention_mask: Tensor
    """(R, L) int64, 0 for padding; or (R, 1, L, L) bool, where completions share a prompt."""
    position_ids: Tensor
    """(R, L) int64."""
    kept: int
    """K: logits of the last K columns are needed."""
    sequences: Tensor
    """(B, 1) int64, the sequence of each completion."""
    predictors: Tensor
    """(B, T) int64, the column of the kept ones whose logits tell of each token."""
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


Sequences = list[list[int]]
"""The rows of a pass, those together that share a prompt."""


def micro_batches(
    rows: Sequence[TrainRow], size: int, pad_id: int, costs: Costs | None = None
) -> list[MicroBatch]:
    """The rows in passes of `size`, like ones together to save padding.

    With `costs`, completions share their prompts where that makes the step cheaper.
    """
    passes = _alone(rows, size)
    if costs and costs.can_share:
        shared = _together(rows, size)
        if _cost(rows, shared, costs) < _cost(rows, passes, costs):
            passes = shared
    return [_pad(rows, sequences, pad_id) for sequences in passes]


def _alone(rows: Sequence[TrainRow], size: int) -> list[Sequences]:
    order = sorted(
        range(len(rows)), key=lambda i: (-len(rows[i].token_ids), -len(rows[i].prompt_ids), i)
    )
    return [[[index] for index in order[i : i + size]] for i in range(0, len(order), size)]


def _together(rows: Sequence[TrainRow], size: int) -> list[Sequences]:
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt_ids), rows[i].prompt_ids, i))
    return [
        [list(group) for _, group in groupby(order[i : i + size], lambda i: rows[i].prompt_ids)]
        for i in range(0, len(order), size)
    ]


def _widths(rows: Sequence[TrainRow], sequences: Sequences) -> tuple[int, int]:
    """Columns of the prompts, and of what follows them."""
    before = max(len(rows[i].prompt_ids) for indices in sequences for i in indices)
    after = max(sum(len(rows[i].token_ids) for i in indices) for indices in sequences)
    return before, after


def _cost(rows: Sequence[TrainRow], passes: Sequence[Sequences], costs: Costs) -> float:
    total = 0.0
    for sequences in passes:
        length = sum(_widths(rows, sequences))
        total += len(sequences) * (length * costs.token + length**2 * costs.pair)
    return total


def _pad(rows: Sequence[TrainRow], sequences: Sequences, pad_id: int) -> MicroBatch:
    before, after = _widths(rows, sequences)
    chosen = [index for indices in sequences for index in indices]
    longest = max(len(rows[i].token_ids) for i in chosen)
    input_ids = torch.full((len(sequences), before + after), pad_id, dtype=torch.int64)
    # 0 for padding, 1 for the prompt, from 2 on the completions of a sequence.
    parts, positions = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    predictors = torch.zeros(len(chosen), longest, dtype=torch.int64)
    targets, mask = torch.full_like(predictors, pad_id), torch.zeros_like(predictors).bool()
    sampler = torch.zeros(len(chosen), longest)
    place = 0
    for sequence, indices in enumerate(sequences):
        prompt = rows[indices[0]].prompt_ids
        start = before - len(prompt)
        input_ids[sequence, start:before] = torch.tensor(prompt)
        parts[sequence, start:before] = 1
        positions[sequence, start:before] = torch.arange(len(prompt))
        column = before
        for part, index in enumerate(indices, start=2):
            row, length = rows[index], len(rows[index].token_ids)
            tokens = torch.tensor(row.token_ids)
            input_ids[sequence, column : column + length] = tokens
            parts[sequence, column : column + length] = part
            positions[sequence, column : column + length] = len(prompt) + torch.arange(length)
            # The prompt's last token tells of a completion's first.
            predictors[place, 1:length] = torch.arange(1, length) + column - before
            targets[place, :length] = tokens
            mask[place, : len(row.learned)] = torch.tensor(row.learned)
            sampler[place, : len(row.logprobs)] = torch.tensor(row.logprobs)
            column, place = column + length, place + 1
    numbers = [sequence for sequence, indices in enumerate(sequences) for _ in indices]
    shares = len(sequences) < len(chosen)
    return MicroBatch(
        input_ids=input_ids,
        attention_mask=_attention(parts) if shares else (parts > 0).long(),
        position_ids=positions,
        kept=after + 1,
        sequences=torch.tensor(numbers)[:, None],
        predictors=predictors,
        targets=targets,
        mask=mask,
        sampler_logp=sampler,
        advantages=torch.tensor([rows[i].advantage for i in chosen], dtype=torch.float32),
        rows=tuple(chosen),
        keys=tuple(rows[i].key for i in chosen),
    )


def _attention(parts: Tensor) -> Tensor:
    """(R, 1, L, L) bool: tokens look back at the prompt and their own part, padding at itself."""
    query, key = parts[:, :, None], parts[:, None, :]
    seen = (key == query) | ((key == 1) & (query > 1))
    length = parts.shape[1]
    seen &= torch.ones(length, length, dtype=torch.bool).tril()
    return (seen | torch.eye(length, dtype=torch.bool))[:, None]


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
        logits_to_keep=batch.kept,
        use_cache=False,
    )
    sequences = batch.sequences.expand_as(batch.predictors)[batch.mask]  # (N,)
    logits = output.logits[sequences, batch.predictors[batch.mask]]  # (N, V)
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
