"""Fréchet distance between Gaussians fitted to features (FID if these are Inception's)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("frechet")
class Frechet(Metric):
    """See harness/evaluate/moments.py; biased upwards by about c/n, so compare equal n only."""

    def compute(self, generated: Tensor, reference: Tensor) -> float:
        """See `Metric.compute`."""
        from harness.evaluate.moments import Moments, frechet

        return frechet(Moments.of(generated), Moments.of(reference))
