"""Dropout with masks that are functions of the sample, independent of process and micro-batch.

A training loop calls `hold_draws` before a step. A mask is then a function of (seed, step, slot of
the global batch, layer): neither the number of processes, nor micro-batches, nor a resume changes
it, and student and target see the same mask, as in consistency models' reference code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.api import HarnessError
from harness.core.random import words
from harness.core.rows import select

# SplitMix64 (Steele, Lea and Flood 2014): constants as signed 64-bit integers
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_INDEX = (1 << 31) - 1
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


class Dropout(nn.Module):
    """Zero a fraction `p` of the elements of [B, ...] and scale the rest by 1 / (1 - p).

    `whole`: keep or zero samples as a whole, unscaled, as label dropout does. Without held draws
    (outside a training loop of the harness) masks come from torch's global generator.
    """

    def __init__(self, p: float, *, whole: bool = False) -> None:
        super().__init__()
        self.p, self.whole = p, whole
        self.keys: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether anything is dropped now."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ...]; several batches of the held samples may lie one after the other in x."""
        if not self.active:
            return x
        count = 1 if self.whole else x[0].numel()
        keys = self.drawn(len(x))
        if keys is None:
            kept = torch.rand(len(x), count, device=x.device) >= self.p
        else:
            kept = _uniform_words(keys, count) >= round(self.p * 2**16) - 2**15
        kept = kept.reshape(len(x), *([1] * (x.dim() - 1) if self.whole else x.shape[1:]))
        return x * kept.to(x.dtype) if self.whole else x * (kept.to(x.dtype) / (1 - self.p))

    def drawn(self, count: int) -> Tensor | None:
        """Keys [count] of the held draws, those of the batch repeated; None: none are held.

        Raises:
            HarnessError: so many samples are not what the draws are held for.
        """
        if self.keys is None:
            return None
        keys = select(self.keys)
        if count % len(keys):
            raise HarnessError(
                f"dropout: {count} samples came, the batch has {len(keys)}; an objective that"
                " calls a student on some rows does so within harness.core.rows.of_batch(rows)"
            )
        return keys.repeat(count // len(keys))


def hold_draws(network: nn.Module, seed: int, step: int, batch_index: Tensor) -> None:
    """Fix the masks of every dropout of a network for samples `batch_index` [B] of one step."""
    layers = [layer for layer in network.modules() if isinstance(layer, Dropout) and layer.p]
    if not layers:
        return
    low, high = words(seed, "dropout", step, batch_index, 2).unbind(1)
    places = (
        torch.arange(1, len(layers) + 1, device=batch_index.device)[:, None] * _GAMMA
    )  # it wraps
    for layer, keys in zip(layers, _mix((low | (high << 32)) + places), strict=True):
        layer.keys = keys


def _uniform_words(keys: Tensor, count: int) -> Tensor:
    """`count` uniform 16-bit words for each key, int16 [B, count]: SplitMix64 seeded by the key.

    Sixteen bits give a probability to 1 / 65536, and four elements share the hash of 64.
    """
    steps = torch.arange(1, -(-count // 4) + 1, device=keys.device) * _GAMMA
    return _mix(keys[:, None] + steps).view(torch.int16)[:, :count]


def kept_in_place(keys: Tensor, shape: torch.Size, p: float) -> Tensor:
    """The mask of `Dropout`, float32 of `shape` [B, ...], element by element: for a compiler."""
    # without & the compiler makes an index of what follows, and Triton has those in 32 bits
    place = torch.arange(shape[1:].numel(), device=keys.device) & _INDEX
    word = _mix(keys[:, None] + (place // 4 + 1) * _GAMMA) >> (16 * (place % 4))
    # as a signed number of 16 bits, plus 2^15
    kept = ((word & 0xFFFF) ^ 0x8000) >= round(p * 2**16)
    return kept.float().reshape(shape)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX[0]
    z = (z ^ _shift(z, 27)) * _MIX[1]
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (z >> by) & ((1 << (64 - by)) - 1)
