"""Bidirectional consistency models' coefficients (Li & He 2024, arXiv 2403.18035).

They are the same functions as those of `ctm` with its default outer map, derived in another way:
variance-preserving interpolation along straight trajectories. `check --equivalence` detects this,
and tables mark it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Coeffs, Preconditioning, edm_inner, register_precond

if TYPE_CHECKING:
    from torch import Tensor


@register_precond("bcm")
class BCM(Preconditioning):
    """BCM: skip = (t s + sd^2) / (t^2 + sd^2), out = sd (t-s) / sqrt(t^2 + sd^2); equals `ctm`."""

    upward = True

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`."""
        var = self.sigma_data**2
        return Coeffs(
            skip=(t * s + var) / (t * t + var),
            out=self.sigma_data * (t - s) / (t * t + var).sqrt(),
        )

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """EDM's denoiser."""
        return Coeffs(*edm_inner(t, self.sigma_data))
