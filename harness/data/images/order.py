"""Map sample indices to items of a finite set: a new permutation in every epoch.

Sample number k is item perm_e[k mod N] with e = k div N, and perm_e sorts random words of
(seed, purpose, epoch). The purpose "reference" is the stored order, the same for every seed.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from harness.core.random import words

STORED = "reference"


def items(seed: int, purpose: str, sample_index: Tensor, size: int) -> Tensor:
    """Item of each sample index, int64 [B] on the CPU, in 0..size - 1."""
    sample_index = sample_index.cpu()
    place = sample_index % size
    if purpose == STORED:
        return place
    epochs = sample_index // size
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        place[here] = permutation(seed, purpose, epoch, size)[place[here]]
    return place


def flips(seed: int, purpose: str, sample_index: Tensor) -> Tensor:
    """Whether each sample is mirrored, bool [B] on the CPU; the stored order never is."""
    if purpose == STORED:
        return torch.zeros(len(sample_index), dtype=torch.bool)
    return words(seed, f"{purpose}: flip", 0, sample_index.cpu(), 1)[:, 0] % 2 == 1


@lru_cache(maxsize=8)
def permutation(seed: int, purpose: str, epoch: int, size: int) -> Tensor:
    """The order of an epoch, int64 [size]."""
    high, low = words(seed, f"{purpose}: order", epoch, torch.arange(size), 2).unbind(1)
    return torch.argsort(((high >> 1) << 32) | low, stable=True)  # 63 bits: no sign
