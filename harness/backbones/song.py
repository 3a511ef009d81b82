"""SongUNet: DDPM++ and NCSN++ of Song et al. 2021, as Karras et al. 2022 train them.

DDPM++ is a positional embedding with standard encoder and decoder; NCSN++ a Fourier embedding with
a residual encoder and the resample filter [1, 3, 3, 1]. Module names are those of the published
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.backbones.block import BlockStyle, SEmbedding, UNetBlock
from harness.backbones.dropout import Dropout
from harness.backbones.layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
)


class SongUNet(SEmbedding):
    """Raw network for images [B, C, R, R]; arguments and defaults are those of EDM's `SongUNet`."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "skip", "residual"] = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        self.drop_labels = Dropout(label_dropout, whole=True)
        init, zero = Init("xavier_uniform"), Init("xavier_uniform", 1e-5)
        embedding, noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        style = BlockStyle(
            embedding=embedding,
            dropout=dropout,
            eps=1e-6,
            skip_scale=math.sqrt(0.5),
            adaptive=False,
            project_resampled=True,
            init=init,
            init_zero=zero,
            init_qkv=Init("xavier_uniform", math.sqrt(0.2)),
            heads=1,
            resample_filter=resample_filter,
        )
        filtered = {"resample_filter": resample_filter}

        fourier = embedding_type == "fourier"
        self.map_noise = (
            FourierEmbedding(noise) if fourier else PositionalEmbedding(noise, endpoint=True)
        )
        self.map_label = Linear(label_dim, noise, init=init) if label_dim else None
        self.map_augment = (
            Linear(augment_dim, noise, bias=False, init=init) if augment_dim else None
        )
        self.map_layer0 = Linear(noise, embedding, init=init)
        self.map_layer1 = Linear(embedding, embedding, init=init)

        widths = [model_channels * factor for factor in channel_mult]
        sizes = [img_resolution >> level for level in range(len(widths))]
        self.enc = nn.ModuleDict()
        skips: list[int] = []
        channels, aux_channels = in_channels, in_channels
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            at = f"{size}x{size}"
            if level == 0:
                self.enc[f"{at}_conv"] = Conv2d(in_channels, model_channels, 3, init=init)
                channels = model_channels
            else:
                self.enc[f"{at}_down"] = UNetBlock(style, channels, channels, resample="down")
                down = {"resample": "down", "init": init, **filtered}
                if encoder_type == "skip":
                    self.enc[f"{at}_aux_down"] = Conv2d(in_channels, in_channels, 0, **down)
                    self.enc[f"{at}_aux_skip"] = Conv2d(in_channels, channels, 1, init=init)
                if encoder_type == "residual":
                    self.enc[f"{at}_aux_residual"] = Conv2d(
                        aux_channels, channels, 3, fused=True, **down
                    )
                    aux_channels = channels
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
            at, lowest = f"{size}x{size}", level == len(widths) - 1
            if lowest:
                self.dec[f"{at}_in0"] = UNetBlock(style, channels, channels, attention=True)
                self.dec[f"{at}_in1"] = UNetBlock(style, channels, channels)
            else:
                self.dec[f"{at}_up"] = UNetBlock(style, channels, channels, resample="up")
            for index in range(num_blocks + 1):
                attention = index == num_blocks and size in attn_resolutions
                block = UNetBlock(style, channels + skips.pop(), width, attention=attention)
                self.dec[f"{at}_block{index}"] = block
                channels = width
            if level == 0 or decoder_type == "skip":
                if decoder_type == "skip" and not lowest:
                    up = Conv2d(out_channels, out_channels, 0, resample="up", **filtered)
                    self.dec[f"{at}_aux_up"] = up
                self.dec[f"{at}_aux_norm"] = GroupNorm(channels, style.eps)
                self.dec[f"{at}_aux_conv"] = Conv2d(channels, out_channels, 3, init=zero)

    @property
    def output_layer(self) -> Conv2d:
        """The convolution that makes the output."""
        return list(self.dec.values())[-1]

    def embed_noise(self, noise: Tensor) -> Tensor:
        """See `SEmbedding.embed_noise`; this family orders the halves [sin | cos]."""
        return self.map_noise(noise).roll(self.map_layer0.weight.shape[1] // 2, dims=1)

    def embed(
        self, noise: Tensor, labels: Tensor | None, augment: Tensor | None, *, second: bool = False
    ) -> Tensor:
        """See `SEmbedding.embed`."""
        first, last = (
            (self.map_layer0_s, self.map_layer1_s) if second else (self.map_layer0, self.map_layer1)
        )
        embedding = self.embed_noise(noise)
        if self.map_label is not None:
            embedding = embedding + self.map_label(labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment is not None:
            embedding = embedding + self.map_augment(augment)
        return functional.silu(last(functional.silu(first(embedding))))

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        augment: Tensor | None = None,
        noise_s: Tensor | None = None,
    ) -> Tensor:
        """Raw output [B, out, R, R] in the dtype of `x`, which is the one blocks compute in.

        Args:
            x: scaled input, [B, in, R, R].
            noise: c_noise, float32 [B].
            labels: float32 [B or 1, label_dim], needed if the network has classes.
            augment: float32 [B, augment_dim], or None for "not augmented".
            noise_s: c_noise of s, float32 [B]; see `SEmbedding`.
        """
        if self.map_label is not None:
            labels = self.drop_labels(labels)
        emb = self.embeddings(noise, noise_s, labels, augment)
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x, *emb) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)

        out, normed = None, x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                out = layer(out)
            elif name.endswith("aux_norm"):
                normed = functional.silu(layer(x))
            elif name.endswith("aux_conv"):
                head = layer(normed)
                out = head if out is None else head + out
            else:
                if x.shape[1] != layer.in_channels:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, *emb)
        return out
