"""Mean and scatter of features: float64, mergeable in any grouping, and the Fréchet distance."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import ConfigError


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

    @functools.cached_property
    def root(self) -> Tensor:
        """Symmetric square root of the covariance; cached, as references are used repeatedly."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


class Accumulator:
    """Accumulates the moments of batches in place, in the memory of one M2."""

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._m2 = torch.empty(0)

    def add(self, features: Tensor) -> None:
        """Add features [B, d]; the same update as `Moments.merge`."""
        batch = features.double()
        if not self._n:
            d, device = batch.shape[1], batch.device
            self._mean = torch.zeros(d, dtype=torch.float64, device=device)
            self._m2 = torch.zeros(d, d, dtype=torch.float64, device=device)
        mean = batch.mean(0)
        centred, delta = batch - mean, mean - self._mean
        n = self._n + len(batch)
        self._m2.addmm_(centred.T, centred).addr_(delta, delta, alpha=self._n * len(batch) / n)
        self._mean += delta * (len(batch) / n)
        self._n = n

    def moments(self) -> Moments | None:
        """Moments of all batches, on the CPU; None if there were none."""
        return Moments(self._n, self._mean.cpu(), self._m2.cpu()) if self._n else None


def fold(parts: Iterable[Moments | None]) -> Moments:
    """Merge the moments of several processes, in the order given.

    Raises:
        ConfigError: there are none.
    """
    whole: Moments | None = None
    for part in parts:
        if part is not None:
            whole = part if whole is None else whole.merge(part)
    if whole is None:
        raise ConfigError("no samples to take moments of")
    return whole


def frechet(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017, eq. 6).

    The trace of the root is the nuclear norm of C_a^(1/2) C_b^(1/2), from two symmetric
    eigendecompositions. This avoids square roots of tiny eigenvalues of a product and an epsilon on
    the diagonal, and is exact for rank-deficient covariances. Negative values, which are rounding
    (of the order 1e-14 of the traces), are set to zero.

    Raises:
        ConfigError: there are fewer than two samples on a side, or features differ in length.
    """
    if min(a.n, b.n) < 2:
        raise ConfigError(f"a Fréchet distance needs 2 samples on each side, got {a.n} and {b.n}")
    if a.mean.shape != b.mean.shape:
        raise ConfigError(
            f"features of length {len(a.mean)} cannot be compared with features of length"
            f" {len(b.mean)}: they are of different extractors, or of samples of another shape"
        )
    cross = torch.linalg.svdvals(a.root @ b.root).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))
