"""The preconditioning of consistency models: EDM's coefficients with the boundary moved to s.

Song et al. 2023 ("Consistency models", appendix C) with sigma_min replaced by s. Not tangent:
d skip/ds = 0 at s = t, so that a short jump is not a step of the teacher's ODE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Coeffs, Preconditioning, register_precond

if TYPE_CHECKING:
    from torch import Tensor


@register_precond("edm")
class EDM(Preconditioning):
    """Consistency models: skip = sd^2 / ((t-s)^2 + sd^2), out = sd (t-s) / sqrt(t^2 + sd^2)."""

    tangent = False
    upward = True

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`."""
        # written as 1/(1 + r^2), which is exactly 1 at s = t; sd^2/((t-s)^2 + sd^2) is not:
        # torch divides a number by a tensor as number * (1/tensor)
        return Coeffs(
            skip=1 / (1 + ((t - s) / self.sigma_data) ** 2),
            out=self.sigma_data * (t - s) / (t * t + self.sigma_data**2).sqrt(),
        )

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """D = x + c_out F: at s = t the slope of skip in s is 0 and that of out is -c_out/t."""
        return Coeffs(skip=1 + 0 * t, out=t * self.sigma_data / (t * t + self.sigma_data**2).sqrt())
