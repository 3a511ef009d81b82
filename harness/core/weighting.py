"""A loss weighting over noise levels that is learned with the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LearnedWeighting(nn.Module):
    """lv(t), the log variance of a loss L at noise level t: E[L e^-lv + lv] is least at log E[L].

    A linear layer, zero at first, on random Fourier features of log(t)/4 (Karras et al. 2024, arXiv
    2312.02696, section 2.2 and appendix B.2).
    """

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, t: Tensor) -> Tensor:
        """lv [B], float32, for noise levels t, float64 [B]."""
        c_noise = (t.log() / 4).float()[:, None]
        features = math.sqrt(2) * (c_noise * self.freqs + self.phases).cos()
        return self.linear(features).float()[:, 0]
