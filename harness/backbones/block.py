"""The residual block of EDM's U-Nets, with optional self-attention, and its embedding of s."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from harness.backbones import fused
from harness.backbones.dropout import Dropout
from harness.backbones.fused import compiled
from harness.backbones.layers import Conv2d, GroupNorm, Init, Linear


@dataclass(frozen=True)
class BlockStyle:
    """Settings shared by all blocks of a network.

    `heads`: number of attention heads, None for one per `head_channels` channels (blocks with fewer
    channels have no attention, as in the published networks). `group_channels`: least number of
    channels of a normalisation group.
    """

    embedding: int
    dropout: float
    eps: float
    skip_scale: float
    adaptive: bool
    project_resampled: bool
    init: Init
    init_zero: Init
    init_qkv: Init
    heads: int | None
    resample_filter: Sequence[float] = (1, 1)
    head_channels: int = 64
    group_channels: int = 4


class UNetBlock(nn.Module):
    """norm, conv, modulation by the embedding, norm, conv, skip; then attention if asked for."""

    def __init__(
        self,
        style: BlockStyle,
        in_channels: int,
        out_channels: int,
        *,
        attention: bool = False,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.adaptive, self.skip_scale = style.adaptive, style.skip_scale
        self.fused = False
        self.heads = 0
        if attention:
            each = out_channels // style.head_channels
            self.heads = each if style.heads is None else style.heads
        moved = {"resample": resample, "resample_filter": style.resample_filter}
        self.norm0 = GroupNorm(in_channels, style.eps, style.group_channels)
        self.conv0 = Conv2d(in_channels, out_channels, 3, init=style.init, **moved)
        width = out_channels * (2 if style.adaptive else 1)
        self.affine = Linear(style.embedding, width, init=style.init)
        self.affine_s: Linear | None = None
        self.norm1 = GroupNorm(out_channels, style.eps, style.group_channels)
        self.dropout = Dropout(style.dropout)
        self.conv1 = Conv2d(out_channels, out_channels, 3, init=style.init_zero)
        self.skip = None
        if out_channels != in_channels or resample:
            kernel = 1 if style.project_resampled or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, init=style.init, **moved)
        if self.heads:
            self.norm2 = GroupNorm(out_channels, style.eps, style.group_channels)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, init=style.init_qkv)
            self.proj = Conv2d(out_channels, out_channels, 1, init=style.init_zero)

    def forward(self, x: Tensor, embedding: Tensor, embedding_s: Tensor | None = None) -> Tensor:
        """x [B, in, H, W] and float32 embeddings [B or 1, E] of t and s -> [B, out, H', W'].

        `embedding_s` is for networks that read s in every block; see `SEmbedding`.
        """
        if self.fused:
            return self._fused(x, embedding, embedding_s)
        h = self.conv0(functional.silu(self.norm0(x)))
        modulation = self.affine(embedding)[:, :, None, None].to(h.dtype)
        if embedding_s is not None:
            modulation = modulation + self.affine_s(embedding_s)[:, :, None, None].to(h.dtype)
        if self.adaptive:
            scale, shift = modulation.chunk(2, dim=1)
            h = functional.silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = functional.silu(self.norm1(h + modulation))
        h = self.conv1(self.dropout(h))
        h = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.heads:
            h = (self.proj(attend(self.qkv(self.norm2(h)), self.heads)) + h) * self.skip_scale
        return h

    def _fused(self, x: Tensor, embedding: Tensor, embedding_s: Tensor | None) -> Tensor:
        """The same to rounding, with compiled pieces between the convolutions."""
        h = self.conv0.unbiased(compiled(fused.entered)(x, *self.norm0.settings))
        modulation = self.affine(embedding)
        if embedding_s is not None:
            modulation = modulation + self.affine_s(embedding_s)
        keys = self.dropout.drawn(len(h)) if self.dropout.active else None
        mask = (keys, self.dropout.p) if keys is not None else (None, 0.0)
        settings = *self.norm1.settings, *mask
        h = compiled(fused.modulated)(h, self.conv0.bias, modulation, *settings)
        if keys is None:
            h = self.dropout(h)  # which may have draws of its own
        h, added = self.conv1.unbiased(h), self.conv1.bias
        if self.skip is not None:
            x = self.skip.unbiased(x)
            added = added if self.skip.bias is None else added + self.skip.bias
        h = compiled(fused.joined)(h, added, x, self.skip_scale)
        if self.heads:
            qkv = self.qkv(compiled(fused.attended)(h, *self.norm2.settings))
            mixed = self.proj.unbiased(attend(qkv, self.heads))
            h = compiled(fused.joined)(mixed, self.proj.bias, h, self.skip_scale)
        return h


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over pixels: [B, 3 C, H, W] -> [B, C, H, W].

    The channels of `qkv` are ordered head, channel within the head, then query, key, value.
    """
    batch, channels, height, width = qkv.shape
    split = qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width)
    query, key, value = split.transpose(2, 4).unbind(3)  # each [B, heads, H W, C / heads]
    mixed = attention(query, key, value)
    return mixed.transpose(2, 3).reshape(batch, channels // 3, height, width)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v by the kernel that suits; all are [B, heads, n, d], strided."""
    if query.device.type == "cpu" or not query.requires_grad:
        # rows in one piece are what fused kernels take; on a GPU their backward adds up in an order
        # of its own, so where there is one torch's plain kernel stays, and a resumed run the same
        # to the bit
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    if forward_ad.unpack_dual(query).tangent is not None:  # fused kernels have no forward mode
        return explicit_attention(query, key, value)
    return functional.scaled_dot_product_attention(query, key, value)


def explicit_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with the softmax in float32; all are [B, heads, n, d]."""
    scores = query.float() @ (key.float() / math.sqrt(key.shape[-1])).transpose(2, 3)
    return scores.softmax(-1).to(value.dtype) @ value


class SEmbedding(nn.Module):
    """Mixin for networks with an optional branch for s, the end of the jump, in one of two forms.

    *Shared*: two layers embed s, and the result is added to the embedding of t; the last layer is
    initialised to zero, the first as a copy of the teacher's. *Per block*: s has an embedding of
    its own, made like that of t, labels included; every residual block adds a layer `affine_s` of
    it to `affine` of that of t (Kim et al. 2024, reference code of CTM). The embedding layers start
    as copies, `affine_s` at zero. In both forms there is no random draw, and an untrained student
    equals its teacher bitwise. The branch is absent until `add_s_embedding`, so that teachers keep
    the published state-dict keys.
    """

    map_layer0: Linear
    map_layer1: Linear

    def __init__(self) -> None:
        super().__init__()
        self.map_layer0_s: Linear | None = None
        self.map_layer1_s: Linear | None = None
        self.per_block = False

    def embed_noise(self, noise: Tensor) -> Tensor:
        """The network's own embedding of a noise number: [B] -> [B, N], float32."""
        raise NotImplementedError

    def embed(
        self, noise: Tensor, labels: Tensor | None, augment: Tensor | None, *, second: bool = False
    ) -> Tensor:
        """The embedding [B, E] that modulates every block, float32; of s if `second`."""
        raise NotImplementedError

    def add_s_embedding(self) -> None:
        """Add the branch for s in its shared form.

        Raises:
            ValueError: the network has one already, whose weights would be lost.
        """
        if self.map_layer0_s is not None:
            raise ValueError("this network has its embedding of s already")
        self.map_layer0_s = copy.deepcopy(self.map_layer0)
        self.map_layer1_s = copy.deepcopy(self.map_layer1)
        self.zero_s_embedding()

    def s_embedding_per_block(self) -> None:
        """Replace the shared branch by one with an embedding of s that is used in every block."""
        self.per_block = True
        self.map_layer0_s = copy.deepcopy(self.map_layer0)
        self.map_layer1_s = copy.deepcopy(self.map_layer1)
        for block in self._blocks():
            block.affine_s = copy.deepcopy(block.affine)
        self.zero_s_embedding()

    def zero_s_embedding(self) -> None:
        """Set the last layer of the branch, if there is one, to zero."""
        last = [block.affine_s for block in self._blocks()] if self.per_block else []
        for layer in last or [self.map_layer1_s]:
            if layer is not None:
                with torch.no_grad():
                    layer.weight.zero_()
                    layer.bias.zero_()

    def draw_s_embedding(self) -> None:
        """Initialise the whole branch at random from torch's generator, as its constructors do.

        This is the initialisation in the reference code of CTM, which copies only the teacher.
        """
        layers = [self.map_layer0_s, self.map_layer1_s]
        for layer in [*layers, *(block.affine_s for block in self._blocks())]:
            if layer is not None:
                layer.reset_parameters()

    def embeddings(
        self,
        noise: Tensor,
        noise_s: Tensor | None,
        labels: Tensor | None,
        augment: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The embedding [B, E] that modulates the blocks, and that of s in the per-block form.

        Raises:
            ValueError: `noise_s` is given to a network without the branch.
        """
        embedding = self.embed(noise, labels, augment)
        if noise_s is None:
            return embedding, None
        if self.map_layer0_s is None or self.map_layer1_s is None:
            raise ValueError("this network has no embedding of s: call add_s_embedding() first")
        if self.per_block:
            return embedding, self.embed(noise_s, labels, augment, second=True)
        hidden = functional.silu(self.map_layer0_s(self.embed_noise(noise_s)))
        return embedding + self.map_layer1_s(hidden), None

    def _blocks(self) -> list[UNetBlock]:
        return [module for module in self.modules() if isinstance(module, UNetBlock)]
