"""Consistency trajectory models' coefficients (Kim et al. 2024, arXiv 2310.02279).

An outer jump f = beta x + alpha D_theta on EDM's denoiser, with alpha = 1 - s/t and three choices
of beta, as in the reference code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from harness.api import (
    Coeffs,
    DenoiserForm,
    Params,
    carried_inner,
    edm_inner,
    register_precond,
)

if TYPE_CHECKING:
    from torch import Tensor


@register_precond("ctm")
class CTM(DenoiserForm):
    """CTM: f = (s/t) x + (1 - s/t) D_theta, an Euler step with EDM's denoiser at t.

    `outer`: beta = s/t (euler), V(t,s) (variance) or (s + V)/(t + 1) (mixed), with
    V = sqrt(((s - smin)^2 + sd^2) / ((t - smin)^2 + sd^2)). Only euler is tangent; the implied
    denoiser of the others differs from EDM's.
    """

    class Params(Params):
        """`outer`: choice of beta; `inner`: noise level of D_theta, and the conditioning sigma.

        `inner: s` is not part of CTM: it is a control for variants of `analytic` that use it.
        """

        outer: Literal["euler", "variance", "mixed"] = "euler"
        inner: Literal["t", "s"] = "t"

    def __init__(self, params: Any = None, **context: float) -> None:
        super().__init__(params, **context)
        self.tangent = self.params.outer == "euler"
        self.upward = self.tangent and self.params.inner == "t"

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `DenoiserForm.outer`."""
        ratio = s / t
        if self.params.outer == "euler":
            return 1 - ratio, ratio
        spread = (self._variance(s) / self._variance(t)).sqrt()
        if self.params.outer == "variance":
            return 1 - ratio, spread
        return 1 - ratio, (s + spread) / (t + 1)

    def inner(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `DenoiserForm.inner`."""
        if self.params.inner == "t":
            return edm_inner(t, self.sigma_data)
        return carried_inner(t, s, self.sigma_data)

    def conditioning_sigma(self, t: Tensor, s: Tensor) -> Tensor:
        """See `Preconditioning.conditioning_sigma`."""
        return t if self.params.inner == "t" else s

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """EDM's denoiser g, plus x (1 - t d beta/ds - 1) from the slope of beta at s = t."""
        c_skip, c_out = edm_inner(t, self.sigma_data)
        if self.params.outer == "euler":
            return Coeffs(c_skip, c_out)
        slope = (t - self.sigma_min) / self._variance(t)  # of V at s = t
        if self.params.outer == "mixed":
            slope = (1 + slope) / (t + 1)
        return Coeffs(c_skip + 1 - t * slope, c_out)

    def _variance(self, sigma: Tensor) -> Tensor:
        return (sigma - self.sigma_min) ** 2 + self.sigma_data**2
