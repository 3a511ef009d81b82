"""Fréchet distance between Gaussians fitted to features (FID if these are Inception's)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import ConfigError, Metric, Params, Score, register_metric

if TYPE_CHECKING:
    from torch import Tensor

    from harness.evaluate.moments import Moments


@register_metric("frechet")
class Frechet(Metric):
    """Fréchet distance of Gaussians fitted to features (FID); bias about c/n: compare equal n."""

    needs = "moments"

    def compute(self, generated: Moments | Tensor, reference: Moments | Tensor) -> float:
        """See `Metric.compute`; feature vectors [n, dim] are accepted too."""
        from harness.evaluate.moments import Moments, frechet

        pair = (x if isinstance(x, Moments) else Moments.of(x) for x in (generated, reference))
        return frechet(*pair)


@register_metric("frechet-infinity")
class FrechetInfinity(Metric):
    """Fréchet distance extrapolated to infinitely many generated samples (Chong & Forsyth 2020).

    The distance of random subsets is fitted as a + b/n; the value is a, with the standard error of
    the fit. The bias due to the finite number of reference samples remains.
    """

    class Params(Params):
        """`points`: number of subset sizes, evenly spaced in 1/n from n down to `least` times n."""

        points: int = Field(default=8, ge=3)
        least: float = Field(default=0.2, gt=0, lt=1)

    def compute(self, generated: Tensor, reference: Tensor) -> Score:
        """See `Metric.compute`."""
        import numpy as np
        import torch

        from harness.evaluate.moments import Moments, frechet

        n = len(generated)
        if n * self.params.least < 2:
            raise ConfigError(f"frechet-infinity: {n} samples are too few to extrapolate from")
        whole = Moments.of(reference)
        rng = np.random.RandomState(2020)
        inverse = np.linspace(1 / n, 1 / (n * self.params.least), self.params.points)
        sizes = np.round(1 / inverse).astype(int)
        values = []
        for size in sizes:
            chosen = torch.from_numpy(rng.choice(n, size, replace=False))
            values.append(frechet(Moments.of(generated[chosen]), whole))
        (_, intercept), covariance = np.polyfit(1 / sizes, values, 1, cov=True)
        return Score(float(intercept), float(covariance[1, 1] ** 0.5))
