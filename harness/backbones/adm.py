"""DhariwalUNet: the ADM architecture of Dhariwal & Nichol 2021 as Karras et al. 2022 train it.

Module names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.backbones.block import BlockStyle, SEmbedding, UNetBlock
from harness.backbones.dropout import Dropout
from harness.backbones.layers import Conv2d, GroupNorm, Init, Linear, PositionalEmbedding


class DhariwalUNet(SEmbedding):
    """Raw network for images [B, C, R, R]; arguments are those of EDM's `DhariwalUNet`.

    The last four are not, and make it the U-Net of OpenAI's guided-diffusion and
    consistency_models: whether the embedding scales as well as shifts, channels of an attention
    head, the least channels of a normalisation group, and whether a branch that reads s per block
    sees labels (CTM's network for ImageNet does not show them to it).
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        scale_shift: bool = True,
        head_channels: int = 64,
        group_channels: int = 4,
        label_s: bool = True,
    ) -> None:
        super().__init__()
        self.label_dim, self.label_s = label_dim, label_s
        self.drop_labels = Dropout(label_dropout, whole=True)
        third = math.sqrt(1 / 3)
        init, zero = Init("kaiming_uniform", third, third), Init("kaiming_uniform", 0, 0)
        embedding = model_channels * channel_mult_emb
        style = BlockStyle(
            embedding=embedding,
            dropout=dropout,
            eps=1e-5,
            skip_scale=1.0,
            adaptive=scale_shift,
            project_resampled=False,
            init=init,
            init_zero=zero,
            init_qkv=init,
            heads=None,
            head_channels=head_channels,
            group_channels=group_channels,
        )

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = (
            Linear(augment_dim, model_channels, bias=False, init=zero) if augment_dim else None
        )
        self.map_layer0 = Linear(model_channels, embedding, init=init)
        self.map_layer1 = Linear(embedding, embedding, init=init)
        unit = Init("kaiming_normal", math.sqrt(label_dim))
        self.map_label = Linear(label_dim, embedding, bias=False, init=unit) if label_dim else None

        widths = [model_channels * factor for factor in channel_mult]
        sizes = [img_resolution >> level for level in range(len(widths))]
        self.enc = nn.ModuleDict()
        skips: list[int] = []
        channels = in_channels
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            at = f"{size}x{size}"
            if level == 0:
                self.enc[f"{at}_conv"] = Conv2d(in_channels, width, 3, init=init)
                channels = width
            else:
                self.enc[f"{at}_down"] = UNetBlock(style, channels, channels, resample="down")
            skips.append(channels)
            for index in range(num_blocks):
                attention = size in attn_resolutions
                block = UNetBlock(style, channels, width, attention=attention)
                self.enc[f"{at}_block{index}"] = block
                channels = width
                skips.append(channels)

        self.dec = nn.ModuleDict()
        for level in reversed(range(len(widths))):
            size, width = sizes[level], widths[level]
            at = f"{size}x{size}"
            if level == len(widths) - 1:
                self.dec[f"{at}_in0"] = UNetBlock(style, channels, channels, attention=True)
                self.dec[f"{at}_in1"] = UNetBlock(style, channels, channels)
            else:
                self.dec[f"{at}_up"] = UNetBlock(style, channels, channels, resample="up")
            for index in range(num_blocks + 1):
                attention = size in attn_resolutions
                block = UNetBlock(style, channels + skips.pop(), width, attention=attention)
                self.dec[f"{at}_block{index}"] = block
                channels = width
        self.out_norm = GroupNorm(channels, style.eps, group_channels)
        self.out_conv = Conv2d(channels, out_channels, 3, init=zero)

    @property
    def output_layer(self) -> Conv2d:
        """The convolution that makes the output."""
        return self.out_conv

    def embed_noise(self, noise: Tensor) -> Tensor:
        """See `SEmbedding.embed_noise`; this family orders the halves [cos | sin]."""
        return self.map_noise(noise)

    def embed(
        self, noise: Tensor, labels: Tensor | None, augment: Tensor | None, *, second: bool = False
    ) -> Tensor:
        """See `SEmbedding.embed`."""
        first, last = (
            (self.map_layer0_s, self.map_layer1_s) if second else (self.map_layer0, self.map_layer1)
        )
        embedding = self.embed_noise(noise)
        if self.map_augment is not None and augment is not None:
            embedding = embedding + self.map_augment(augment)
        embedding = last(functional.silu(first(embedding)))
        if self.map_label is not None and (self.label_s or not second):
            embedding = embedding + self.map_label(labels)
        return functional.silu(embedding)

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
        noise_s: Tensor | None = None,
    ) -> Tensor:
        """Raw output [B, out, R, R] in the dtype of `x`; arguments as in `SongUNet.forward`."""
        if self.map_label is not None:
            labels = self.drop_labels(labels)
        emb = self.embeddings(noise, noise_s, labels, augment)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, *emb) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        for block in self.dec.values():
            if x.shape[1] != block.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = block(x, *emb)
        return self.out_conv(functional.silu(self.out_norm(x)))
