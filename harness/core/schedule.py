"""Noise levels: Karras's rho-schedule (Karras et al. 2022, eq. 5), noisiest first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PLAIN = 100.0  # largest rho for which the formula is evaluated directly


def karras(
    nodes: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Tensor:
    """`nodes` levels from sigma_max down to sigma_min, float64, both ends exact.

    A sampler of n steps uses `karras(n + 1)`; a distillation grid of N levels is `karras(N)`.
    The grid does not contain zero: data at sigma_min count as clean.
    """
    if nodes < 2:
        raise ValueError(f"a schedule needs at least 2 nodes, got {nodes}")
    ramp = torch.linspace(0, 1, nodes, dtype=torch.float64)
    levels = warped(ramp, sigma_min, sigma_max, rho)
    levels[0], levels[-1] = sigma_max, sigma_min
    return levels


def warped(ramp: Tensor, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Levels at positions `ramp` in [0, 1] of the rho-schedule, float64; geometric for rho = inf.

    (a + ramp (b - a))^rho with a = sigma_max^(1/rho), b = sigma_min^(1/rho). For rho below 1 or
    above `PLAIN`, where this overflows or cancels, sigma_max exp(rho log(1 + ramp (b/a - 1))).
    """
    if 1 <= rho <= PLAIN:
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        return (high + ramp * (low - high)) ** rho
    span = math.log(sigma_min) - math.log(sigma_max)
    if math.isinf(rho):
        return sigma_max * (ramp * span).exp()
    return sigma_max * (rho * (ramp * math.expm1(span / rho)).log1p()).exp()


def uniform_lambda(levels: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Noise levels uniform in lambda = -log t, noisiest first, float64, both ends exact."""
    hi = torch.tensor([sigma_max, sigma_min], dtype=torch.float64).log()
    sigma = torch.linspace(float(hi[0]), float(hi[1]), levels, dtype=torch.float64).exp()
    sigma[0], sigma[-1] = sigma_max, sigma_min
    return sigma
