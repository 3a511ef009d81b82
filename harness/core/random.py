"""Counter-based random draws: each value is a function of (seed, purpose, step, index) alone.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), vectorised over
indices. No state is kept, so neither the number of processes, nor a resume, nor the order in which
things are drawn can change a draw; and a comparison of two preconditionings is paired by
construction.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]
_MASK = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
#: words of a draw on the host up to which numpy is quicker (by four, at a few hundred)
_FEW = 2**15


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32 on four int64 tensors holding 32-bit words."""
    if counter[0].device.type == "cpu" and counter[0].numel() <= _FEW:
        words = tuple(word.numpy().view(np.uint64) for word in counter)
        return tuple(torch.from_numpy(word.view(np.int64)) for word in _philox_few(words, key))
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]  # wraps: the low 64 bits are exact
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _philox_few(counter: tuple[Words, ...], key: tuple[int, int]) -> tuple[Words, ...]:
    """`philox` on numpy's unsigned integers, faster for few words on the CPU."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    mask, half = np.uint64(_MASK), np.uint64(32)
    first, second = (np.uint64(m) for m in _MULTIPLIER)
    for _ in range(10):
        p0, p1 = c0 * first, c2 * second
        c0, c1, c2, c3 = (
            (p1 >> half) ^ c1 ^ np.uint64(k0),
            p1 & mask,
            (p0 >> half) ^ c3 ^ np.uint64(k1),
            p0 & mask,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def derive_seed(seed: int, purpose: str) -> int:
    """A 64-bit seed for a purpose, independent of every other purpose's."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def words(seed: int, purpose: str, step: int, indices: Tensor, count: int) -> Tensor:
    """`count` random 32-bit words for each index, int64 [B, count]."""
    key = derive_seed(seed, purpose)
    blocks = -(-count // 4)
    block = torch.arange(blocks, device=indices.device)
    index = indices.to(torch.int64)[:, None]
    counter = (
        block.expand(len(indices), blocks),
        torch.full_like(index, step & _MASK).expand(-1, blocks),
        (index & _MASK).expand(-1, blocks),
        ((index >> 32) & _MASK).expand(-1, blocks),
    )
    drawn = philox(counter, (key & _MASK, key >> 32))
    return torch.stack(drawn, dim=-1).flatten(1)[:, :count]


def uniform(seed: int, purpose: str, step: int, indices: Tensor, count: int = 1) -> Tensor:
    """Float64 [B, count] in the open interval (0, 1)."""
    return (words(seed, purpose, step, indices, count).double() + 0.5) / 2**32


def normal(
    seed: int,
    purpose: str,
    step: int,
    indices: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal [B, *shape] by Box-Muller, computed in float64 and cast last."""
    count = math.prod(shape)
    half = -(-count // 2)
    u = uniform(seed, purpose, step, indices, 2 * half)
    radius = torch.sqrt(-2 * torch.log(u[:, :half]))
    angle = 2 * math.pi * u[:, half:]
    drawn = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return drawn[:, :count].to(dtype).reshape(len(indices), *shape)


def integers(
    seed: int, purpose: str, step: int, indices: Tensor, low: Tensor | int, high: Tensor | int
) -> Tensor:
    """Int64 [B], uniform on low..high inclusive; the bounds may differ by sample."""
    u = uniform(seed, purpose, step, indices)[:, 0]
    span = torch.as_tensor(high, device=u.device) - torch.as_tensor(low, device=u.device) + 1
    return torch.as_tensor(low, device=u.device) + (u * span).long()
