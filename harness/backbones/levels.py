"""Noise levels of two diffusion processes, in plain floats: known without importing torch.

Source: Karras et al. 2022 (arXiv:2206.00364), table 1.
"""

from __future__ import annotations

import math


def vp_sigma(t: float, beta_d: float, beta_min: float) -> float:
    """Noise level of the variance-preserving process at its time t in (0, 1]."""
    return math.sqrt(math.expm1(beta_d * t * t / 2 + beta_min * t))


def iddpm_levels(C_1: float, C_2: float, M: int) -> list[float]:
    """The M + 1 noise levels u_0 > ... > u_M = 0 of iDDPM."""

    def abar(j: int) -> float:
        return math.sin(math.pi / 2 * j / (M * (C_2 + 1))) ** 2

    levels = [0.0]
    for j in range(M, 0, -1):
        ratio = max(abar(j - 1) / abar(j), C_1)
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
    return levels[::-1]
