"""A diffusion transformer for images (Peebles & Xie 2023), conditioned on t and s."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone
from harness.backbones.block import attention
from harness.backbones.dropout import Dropout
from harness.backbones.mlp import sinusoidal


class DiT(Backbone):
    """Patches of an image as tokens, blocks modulated by t, s and the class (adaLN-zero).

    Args:
        shape: (C, R, R) of an image; R is a multiple of `patch`.
        patch: side of a patch.
        width: of a token, a multiple of 4 `heads`.
        depth: blocks of attention and an MLP of 4 `width` units.
        heads: of the attention.
        dropout: within the MLPs.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        sigma_data: float,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        channels, side, _ = shape
        self.sigma_data, self.patch, self.width = sigma_data, patch, width
        self.embed_t = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_s = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_label = nn.Linear(classes, width, bias=False) if classes else None
        self.inlet = nn.Linear(channels * patch**2, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, channels * patch**2)
        self.register_buffer("positions", positions(side // patch, width), persistent=False)
        self._open()

    def reset_parameters(self, seed: int) -> None:
        """See `Backbone.reset_parameters`."""
        super().reset_parameters(seed)
        self._open()

    def zero_s_embedding(self) -> None:
        """See `Backbone.zero_s_embedding`."""
        nn.init.zeros_(self.embed_s[2].weight)
        nn.init.zeros_(self.embed_s[2].bias)

    @property
    def last_layer(self) -> nn.Parameter:
        """See `Backbone.last_layer`."""
        return self.outlet.weight

    def network(
        self, x: Tensor, noise_t: Tensor, noise_s: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """See `Backbone.network`; x is [B, C, R, R]."""
        emb = self.embed_t(sinusoidal(noise_t, self.width))
        if noise_s is not None:
            emb = emb + self.embed_s(sinusoidal(noise_s, self.width))
        if self.embed_label is not None and labels is not None:
            emb = emb + self.embed_label(labels.to(emb.dtype))
        emb = nn.functional.silu(emb)[:, None]
        h = self.inlet(patches(x, self.patch)) + self.positions
        for block in self.blocks:
            h = block(h, emb)
        scale, shift = self.modulation(emb).chunk(2, dim=-1)
        found = self.outlet(self.norm(h) * (1 + scale) + shift)
        return image(found, self.patch, x.shape[-1] // self.patch).to(x.dtype)

    def _open(self) -> None:
        """Blocks start as the identity and the output at zero, as in the paper; s is silent."""
        for layer in (*(block.modulation for block in self.blocks), self.modulation, self.outlet):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.zero_s_embedding()


class Block(nn.Module):
    """Attention, then an MLP; each is scaled, shifted and gated by the embedding."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.drop = Dropout(dropout)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """h [B, N, width], the embedding [B, 1, width]."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(emb).chunk(6, dim=-1)
        z = self.norm1(h) * (1 + scale1) + shift1
        parts = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + gate1 * self.out(attention(*parts).transpose(1, 2).flatten(2))
        z = self.norm2(h) * (1 + scale2) + shift2
        return h + gate2 * self.down(self.drop(nn.functional.gelu(self.up(z), approximate="tanh")))


def patches(x: Tensor, side: int) -> Tensor:
    """[B, C, R, R] -> [B, (R/side)^2, C side^2], row by row."""
    x = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # [B, C, rows, side, columns, side]
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def image(tokens: Tensor, side: int, count: int) -> Tensor:
    """The inverse of `patches`, for `count` patches a row."""
    x = tokens.unflatten(1, (count, count)).unflatten(3, (-1, side, side))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(count: int, width: int) -> Tensor:
    """Cosines and sines of row and column, [count^2, width], fixed."""
    rate = torch.exp(-math.log(10000.0) * torch.arange(width // 4) / (width // 4))
    angle = torch.arange(count)[:, None] * rate
    along = torch.cat([angle.sin(), angle.cos()], dim=1)  # [count, width / 2]
    rows, columns = along[:, None].expand(-1, count, -1), along[None].expand(count, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
