"""Noise levels: Karras's rho-schedule (Karras et al. 2022, eq. 5), noisiest first."""

from __future__ import annotations

import torch
from torch import Tensor


def karras(
    nodes: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Tensor:
    """`nodes` levels from sigma_max down to sigma_min, float64, both ends exact.

    A student that takes n steps walks `karras(n + 1)`; a distillation grid of N levels is
    `karras(N)`. Zero is never on the grid: sigma_min is what "clean" means.
    """
    if nodes < 2:
        raise ValueError(f"a schedule needs at least 2 nodes, got {nodes}")
    ramp = torch.linspace(0, 1, nodes, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = (high + ramp * (low - high)) ** rho
    levels[0], levels[-1] = sigma_max, sigma_min
    return levels


def uniform_lambda(levels: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Noise levels uniform in lambda = -log t, noisiest first, float64, both ends exact."""
    hi = torch.tensor([sigma_max, sigma_min], dtype=torch.float64).log()
    sigma = torch.linspace(float(hi[0]), float(hi[1]), levels, dtype=torch.float64).exp()
    sigma[0], sigma[-1] = sigma_max, sigma_min
    return sigma
