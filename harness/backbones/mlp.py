"""A residual MLP for vector data: small enough to distil on a laptop in seconds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from harness.backbones.base import Backbone


def sinusoidal(noise: Tensor, width: int) -> Tensor:
    """[B] -> [B, width]: cosines and sines of c_noise at frequencies pi/4 to 8 pi."""
    steps = torch.linspace(-2, 3, width // 2, device=noise.device, dtype=noise.dtype)
    angle = noise[:, None] * math.pi * 2.0**steps
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class MLP(Backbone):
    """Residual blocks of width `width`, each modulated by an embedding of t plus one of s."""

    def __init__(
        self, dim: int, *, sigma_data: float, width: int = 128, depth: int = 3, classes: int = 0
    ) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.width = width
        self.embed_t = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_s = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_label = nn.Linear(classes, width, bias=False) if classes else None
        self.inlet = nn.Linear(dim, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mixers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.outlet = nn.Linear(width, dim)
        self.zero_s_embedding()

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
        """See `Backbone.network`; x is [B, d]."""
        embedding = self.embed_t(sinusoidal(noise_t, self.width))
        if noise_s is not None:
            embedding = embedding + self.embed_s(sinusoidal(noise_s, self.width))
        if self.embed_label is not None and labels is not None:
            embedding = embedding + self.embed_label(labels)
        embedding = nn.functional.silu(embedding)
        h = self.inlet(x)
        for norm, mixer, modulation in zip(self.norms, self.mixers, self.modulations, strict=True):
            scale, shift = modulation(embedding).chunk(2, dim=1)
            h = h + mixer(nn.functional.silu(norm(h) * (1 + scale) + shift))
        return self.outlet(h)
