"""From the rows that a worker gets for one optimiser step to its micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow

IGNORED = -100
"""Label of a token that is not learned, as in torch's cross-entropy."""


@dataclass(frozen=True)
class Row:
    """One tokenized row. Empty rows fill up the last global batch of an epoch."""

    position: int
    ids: np.ndarray
    """(T,) int32 token ids."""
    learned: np.ndarray
    """(T,) bool."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward and backward pass, padded at the right."""

    input_ids: Tensor
    """(B, T) int64."""
    attention_mask: Tensor | None
    """(B, T) int64, 1 for tokens and 0 for padding; None where there is no padding."""
    labels: Tensor
    """(B, T) int64: the token itself where it is learned, else `IGNORED`."""
    positions: tuple[int, ...]
    tokens: int
    """Tokens without padding."""

    @property
    def learned_tokens(self) -> int:
        """Tokens that count in the loss."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device."""
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=mask,
            labels=self.labels.to(device),
        )


def rows_of(table: pyarrow.Table) -> list[Row]:
    """The rows of a block of the stream."""
    ids, learned = table["input_ids"].combine_chunks(), table["learned"].combine_chunks()
    offsets = ids.offsets.to_numpy()
    flat_ids = ids.values.to_numpy()
    flat_learned = learned.values.to_numpy(zero_copy_only=False)
    return [
        Row(position, flat_ids[start:stop], flat_learned[start:stop].astype(bool))
        for position, start, stop in zip(
            table["position"].to_pylist(), offsets[:-1], offsets[1:], strict=True
        )
    ]


def micro_batches(rows: Sequence[Row], size: int, pad_id: int) -> list[MicroBatch]:
    """The rows in passes of `size`, rows of like length together to save padding.

    The loss is averaged over the global batch, so it is the same in whichever pass a row is.
    """
    ordered = sorted(rows, key=lambda row: (-len(row.ids), row.position))
    return [_pad(ordered[i : i + size], pad_id) for i in range(0, len(ordered), size)]


def _pad(rows: Sequence[Row], pad_id: int) -> MicroBatch:
    lengths = [len(row.ids) for row in rows]
    longest = max(*lengths, 1)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORED)
    mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        ids = torch.from_numpy(row.ids.astype(np.int64))
        learned = torch.from_numpy(row.learned)
        input_ids[index, : len(ids)] = ids
        labels[index, : len(ids)][learned] = ids[learned]
        mask[index, : max(len(ids), 1)] = 1
    padded = bool((mask == 0).any())
    positions = tuple(row.position for row in rows)
    return MicroBatch(input_ids, mask if padded else None, labels, positions, sum(lengths))
