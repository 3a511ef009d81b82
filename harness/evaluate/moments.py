"""Mean and scatter of features: float64, mergeable in any grouping, and the Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """n, mean [d] and M2 = sum (x - mean)(x - mean)^T [d, d] of n feature vectors, float64."""

    n: int
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features [n, d], centred before squaring, so a large common offset is safe."""
        features = features.double()
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub & LeVeque 1979)."""
        n = self.n + other.n
        delta = other.mean - self.mean
        return Moments(
            n,
            self.mean + delta * (other.n / n),
            self.m2 + other.m2 + torch.outer(delta, delta) * (self.n * other.n / n),
        )

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance [d, d]."""
        return self.m2 / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017, eq. 6).

    The trace of the root is the nuclear norm of C_a^(1/2) C_b^(1/2), from two symmetric
    eigendecompositions: no square root of tiny eigenvalues of a product, no epsilon on the
    diagonal, exact on rank-deficient covariances, and never negative beyond rounding.
    """
    cross = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + spread)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
