"""What lies between the convolutions of a block, as functions that torch's compiler can fuse.

Norm, activation, modulation, dropout and residual each read and write the whole activation; fused
they do so once. Written so that channels-last inputs give channels-last outputs, which torch's own
group norm does not, they spare a GPU's convolutions their transpositions. Compiling them takes
seconds where compiling a whole network takes minutes, and any batch size will do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.backbones.dropout import kept_in_place


def normed(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Group normalisation of x [B, C, H, W] in float32."""
    grouped = x.float().unflatten(1, (groups, -1))
    var, mean = torch.var_mean(grouped, (2, 3, 4), correction=0, keepdim=True)
    scaled = ((grouped - mean) * (var + eps).rsqrt()).flatten(1, 2)
    return scaled * weight[:, None, None] + bias[:, None, None]


def entered(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """silu(norm(x)) in the dtype of x."""
    return functional.silu(normed(x, weight, bias, groups, eps)).to(x.dtype)


def attended(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """norm(x) in the dtype of x."""
    return normed(x, weight, bias, groups, eps).to(x.dtype)


def modulated(
    h: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    keys: Tensor | None,
    p: float,
) -> Tensor:
    """dropout(silu(norm(h, modulated))); modulation is [B or 1, C or 2 C, 1, 1], float32."""
    if modulation.shape[1] == h.shape[1]:
        value = normed(h.float() + modulation, weight, bias, groups, eps)
    else:
        scale, shift = modulation.chunk(2, dim=1)
        value = shift + normed(h, weight, bias, groups, eps) * (scale + 1)
    value = functional.silu(value)
    if keys is not None:
        value = value * (kept_in_place(keys, value.shape, p) / (1 - p))
    return value.to(h.dtype)


def joined(h: Tensor, x: Tensor, scale: float) -> Tensor:
    """(h + x) scale."""
    return (h + x) * scale


@functools.cache
def compiled(piece: Callable[..., Tensor]) -> Callable[..., Any]:
    """The same for any sizes, compiled on first use."""
    return torch.compile(piece, fullgraph=True, dynamic=True)
