"""EDM's coefficients with sigma_min replaced by s: consistency models' own preconditioning.

Song et al. 2023 ("Consistency models", appendix C) with the fixed end sigma_min made variable. Not
tangent: d skip/ds = 0 at s = t, so a short jump is no step of the teacher's ODE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Coeffs, Preconditioning, register_precond

if TYPE_CHECKING:
    from torch import Tensor


@register_precond("edm")
class EDM(Preconditioning):
    """skip = sd^2 / ((t-s)^2 + sd^2), out = sd (t-s) / sqrt(t^2 + sd^2)."""

    tangent = False

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`."""
        var = self.sigma_data**2
        return Coeffs(
            skip=var / ((t - s) ** 2 + var),
            out=self.sigma_data * (t - s) / (t * t + var).sqrt(),
        )

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """D = x + c_out F: skip has no slope at s = t, out has -c_out/t."""
        return Coeffs(
            skip=1 + 0 * t, out=t * self.sigma_data / (t * t + self.sigma_data**2).sqrt()
        )
