"""Which item a sample number means: a fresh permutation every epoch, a function of numbers alone.

Sample number k is item perm_e[k mod N] with e = k div N, and perm_e sorts random words of
(seed, purpose, epoch). The purpose "reference" is the stored order, the same for every seed.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from harness.core.random import words

STORED = "reference"


def items(seed: int, purpose: str, numbers: Tensor, size: int) -> Tensor:
    """Item of each sample number [B] int64 on the CPU, in 0..size - 1."""
    numbers = numbers.cpu()
    place = numbers % size
    if purpose == STORED:
        return place
    epochs = numbers // size
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        place[here] = permutation(seed, purpose, epoch, size)[place[here]]
    return place


def flips(seed: int, purpose: str, numbers: Tensor) -> Tensor:
    """Whether each sample is mirrored, bool [B] on the CPU; the stored order never is."""
    if purpose == STORED:
        return torch.zeros(len(numbers), dtype=torch.bool)
    return words(seed, f"{purpose}: flip", 0, numbers.cpu(), 1)[:, 0] % 2 == 1


@lru_cache(maxsize=8)
def permutation(seed: int, purpose: str, epoch: int, size: int) -> Tensor:
    """The order of an epoch, int64 [size]."""
    high, low = words(seed, f"{purpose}: order", epoch, torch.arange(size), 2).unbind(1)
    return torch.argsort(((high >> 1) << 32) | low, stable=True)  # 63 bits: no sign
