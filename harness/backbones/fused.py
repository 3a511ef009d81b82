"""What lies between the convolutions of a block, as functions that torch's compiler can fuse.

Norm, activation, modulation, dropout and residual each read and write the whole activation; fused
they do so once, and add the biases of convolutions on the way. Written so that channels-last inputs
give channels-last outputs, which torch's own group norm does not, they spare a GPU's convolutions
their transpositions. They are compiled once for every shape of an activation and any batch size.
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
    """Group normalisation of x [B, C, H, W] in float32.

    Statistics are taken by channel and then put together by group: with channels last that reads
    memory in order, and what is left to do for every element is one product and one sum.
    """
    x = x.float()
    var, mean = (
        each.unflatten(1, (groups, -1)) for each in torch.var_mean(x, (2, 3), correction=0)
    )
    spread, centre = torch.var_mean(mean, 2, correction=0, keepdim=True)
    length = (var.mean(2, keepdim=True) + spread + eps).rsqrt()  # [B, groups, 1]
    scale = (length.expand_as(mean)).flatten(1) * weight
    shift = bias - centre.expand_as(mean).flatten(1) * scale
    return x * scale[:, :, None, None] + shift[:, :, None, None]


def entered(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """silu(norm(x)) in the dtype of x."""
    return functional.silu(normed(x, weight, bias, groups, eps)).to(x.dtype)


def attended(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """norm(x) in the dtype of x."""
    return normed(x, weight, bias, groups, eps).to(x.dtype)


def modulated(
    h: Tensor,
    added: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    keys: Tensor | None,
    p: float,
) -> Tensor:
    """dropout(silu(norm(h + added, modulated))).

    Args:
        h: what a convolution without its bias made, [B, C, H, W].
        added: that bias, [C].
        modulation: float32 [B or 1, C], added before the norm, or [B or 1, 2 C], applied after it.
    """
    if modulation.shape[1] == h.shape[1]:
        value = normed(
            h.float() + (modulation + added)[:, :, None, None], weight, bias, groups, eps
        )
    else:
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        value = normed(h.float() + added[:, None, None], weight, bias, groups, eps)
        value = shift + value * (scale + 1)
    value = functional.silu(value)
    if keys is not None:
        value = value * (kept_in_place(keys, value.shape, p) / (1 - p))
    return value.to(h.dtype)


def joined(h: Tensor, added: Tensor, x: Tensor, scale: float) -> Tensor:
    """(h + added + x) scale, in the dtype of h; `added` [C] are the biases of what made h and x."""
    return ((h.float() + added[:, None, None] + x) * scale).to(h.dtype)


@functools.cache
def compiled(piece: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, compiled on first use for each shape of an image; the batch may have any size.

    Sizes that the compiler knows make its kernels several times as fast.
    """
    from torch._dynamo import maybe_mark_dynamic  # half a second, for those who ask

    quick = torch.compile(piece, fullgraph=True, dynamic=False)

    def run(*given: Any) -> Tensor:
        batch = len(given[0])
        for each in given:
            batched = isinstance(each, Tensor) and len(each) == batch
            if batched and (each.dim() > 1 or not each.is_floating_point()):  # biases are [C]
                maybe_mark_dynamic(each, 0)
        return quick(*given)

    return run
