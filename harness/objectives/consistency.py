"""Shared by consistency tuning and training: pairs of noise levels, distances, weightings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.api import Params, TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor

DistanceName = Literal["pseudo-huber", "l2", "l1"]
#: names of the weightings w(t, r) of a pair r < t, see `weights`
Weighting = Literal[
    "gap",
    "sqrt-gap",
    "c-out",
    "c-out-squared",
    "snr",
    "snr1",
    "truncated-snr",
    "karras",
    "uniform",
]


class MappingParams(Params):
    """The map from t to r (Geng et al. 2024, section 3), which approaches t in stages.

        r = t (1 - n(t) / q^(stage + 1)),    n(t) = 1 + k sigmoid(-b t),    stage = step // double

    - `q`, `k`, `b`: as published; `double`: steps per stage, as published 25,000 at batch size 128;
    - `ratio_limit`: upper limit of 1 - q^-(stage + 1).
    """

    q: float = Field(default=2.0, gt=1)
    k: float = Field(default=8.0, ge=0)
    b: float = Field(default=1.0, gt=0)
    double: int = Field(default=25_000, ge=1)
    ratio_limit: float = Field(default=1.0, gt=0, le=1)

    def nearer(self, t: Tensor, step: int, spec: TeacherSpec) -> Tensor:
        """r(t) at training step `step`, float64 like t, at least sigma_min."""
        gap = max(self.q ** -(step // self.double + 1), 1 - self.ratio_limit)
        return (t * (1 - gap * (1 + self.k * (-self.b * t).sigmoid()))).clamp_min(spec.sigma_min)


def lognormal(u: Tensor, mean: float, std: float, low: float, high: float) -> Tensor:
    """Noise levels with log t ~ N(mean, std^2) truncated to low..high, from uniforms u, float64."""
    import torch

    ends = torch.tensor([low, high], dtype=torch.float64).log().sub(mean).div(std)
    below, above = torch.special.ndtr(ends)
    return (mean + std * torch.special.ndtri(below + u * (above - below))).exp().clamp(low, high)


def discrete_lognormal(levels: Tensor, mean: float, std: float) -> Tensor:
    """Normalised mass [N - 1] of the intervals of increasing levels [N], log t ~ N(mean, std^2)."""
    import torch

    mass = torch.special.ndtr((levels.log() - mean) / std).diff()
    return mass / mass.sum()


def summed_distance(name: DistanceName, a: Tensor, b: Tensor, c: float) -> Tensor:
    """Distance of each pair of samples, [B], in float32 or better, summed over coordinates.

    pseudo-huber: sqrt(||a - b||^2 + c^2) - c, at c = 0 the norm itself, whose gradient is taken as
    zero where a = b; l2: ||a - b||^2; l1: the sum of |a - b|.
    """
    import torch

    kind = torch.promote_types(a.dtype, torch.float32)
    difference = (a.to(kind) - b.to(kind)).flatten(1)
    if name == "l1":
        return difference.abs().sum(1)
    total = difference.square().sum(1)
    if name == "l2":
        return total
    return (total + c * c).clamp_min(torch.finfo(kind).tiny).sqrt() - c


def ict_constant(shape: tuple[int, ...]) -> float:
    """c = 0.00054 sqrt(d) (Song & Dhariwal 2023, section 3.3)."""
    return 0.00054 * math.sqrt(math.prod(shape))


def weights(name: Weighting, t: Tensor, r: Tensor, sigma_data: float) -> Tensor:
    """The weighting w(t, r), float64 [B]: `gap` as in iCT and ECT, or one of the alternatives."""
    c_out = t * sigma_data / (t * t + sigma_data**2).sqrt()
    return {
        "gap": 1 / (t - r),
        "sqrt-gap": (t - r).rsqrt(),
        "c-out": 1 / c_out,
        "c-out-squared": 1 / c_out**2,
        "snr": 1 / t**2,
        "snr1": 1 / t**2 + 1,
        "truncated-snr": (1 / t**2).clamp_min(1),
        "karras": 1 / t**2 + 1 / sigma_data**2,
        "uniform": t * 0 + 1,
    }[name]
