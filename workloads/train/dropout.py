"""Dropout that follows from the seed and the row, not from where the row is computed.

A row's mask is drawn from a generator seeded with (seed, layer, position of the row in the stream
of training rows). So the same rows are dropped the same way with one worker or eight, in whichever
micro-batch, when activations are computed again in the backward pass, and after a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


@dataclass
class RowKeys:
    """The rows that are being computed. All layers of a model share one."""

    positions: Sequence[int] = ()
    """(B,) position of each row in the stream."""


class RowDropout(nn.Module):
    """Drops features of (B, T, F) inputs with a mask for each row; torch's dropout for others."""

    def __init__(self, share: float, seed: int, rows: RowKeys) -> None:
        super().__init__()
        self.share, self.seed, self.rows = share, seed, rows
        self._threshold = round(share * 2**16) - 2**15
        self._generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes a share of the features, to 1 in 65,536, and scales up the others."""
        if not self.training:
            return x
        if x.dim() != 3 or len(x) != len(self.rows.positions):
            return nn.functional.dropout(x, self.share)
        kept = torch.stack(
            [self._kept(row, p) for row, p in zip(x, self.rows.positions, strict=True)]
        )
        return x * kept.to(x.dtype).div_(1 - self.share)

    def _kept(self, row: Tensor, position: int) -> Tensor:
        if self._generator is None or self._generator.device != row.device:
            self._generator = torch.Generator(row.device)
        self._generator.manual_seed(_mix(self.seed, position))
        # One draw of 64 bits serves four features.
        words = torch.empty(-(-row.numel() // 4), dtype=torch.int64, device=row.device)
        words.random_(-(2**63), None, generator=self._generator)
        return words.view(torch.int16)[: row.numel()].view(row.shape) >= self._threshold


def _mix(seed: int, position: int) -> int:
    return int.from_bytes(hashlib.blake2b(b"%d,%d" % (seed, position), digest_size=8).digest()) >> 1


def use_row_dropout(model: nn.Module, share: float, seed: int) -> RowKeys:
    """Replaces the dropout of a model's LoRA layers; set the result before each forward pass."""
    rows = RowKeys()
    if share:
        layers = (module for module in model.modules() if isinstance(module, LoraLayer))
        for index, layer in enumerate(layers):
            for name in layer.lora_dropout:
                layer.lora_dropout[name] = RowDropout(share, _mix(seed, index), rows)
    return rows
