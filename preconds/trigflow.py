"""TrigFlow's coordinates (Lu & Song 2024, arXiv 2410.11081): the ODE as motion on a circle.

With the angle theta = arctan(t/sd) and x^ = x/r_t, r_t = sqrt(t^2 + sd^2), EDM's raw output is the
velocity, dx^/dtheta = -F, and a jump turns by the angle Delta = theta_t - theta_s:

    rotation:  x^_s = cos(Delta) x^_t + sin(Delta) F     TrigFlow's own; the same function as `ctm`
    arc:       x^_s = x^_t + Delta F                     F is the mean velocity of the jump

A step along any interpolant a x_0 + b eps with D held fixed is the same function as the rotation,
including rectified flow (docs/mathematics.md), so that flow matching needs no preconditioning of
its own. `arc` differs: it is the parametrisation of mean flows (Geng et al. 2025, arXiv 2505.13447)
in the time theta. With F = 0 it is exact for Gaussian data: x^_s = x^_t, where `ctm` has cos(Delta)
x^_t. `arc` is better if trajectories keep their direction from noise to data (few dimensions), and
worse if x_s depends little on x_t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness.api import Coeffs, Params, Preconditioning, edm_inner, register_precond

if TYPE_CHECKING:
    from torch import Tensor


@register_precond("trigflow")
class TrigFlow(Preconditioning):
    """TrigFlow's rotation (the same function as `ctm`), or the arc, where F is a mean velocity."""

    upward = True

    class Params(Params):
        """`step`: rotation or arc, see the module."""

        step: Literal["rotation", "arc"] = "rotation"

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`."""
        sd = self.sigma_data
        r_t, r_s = ((level * level + sd**2).sqrt() for level in (t, s))
        # tan(theta_t - theta_s), without the difference of two angles near pi/2
        tangent = sd * (t - s) / (t * s + sd**2)
        scale = r_s / r_t
        if self.params.step == "arc":
            return Coeffs(scale, r_s * tangent.arctan())
        secant = (1 + tangent * tangent).sqrt()
        return Coeffs(scale / secant, r_s * tangent / secant)

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """EDM's denoiser."""
        return Coeffs(*edm_inner(t, self.sigma_data))
