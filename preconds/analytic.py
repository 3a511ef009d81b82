"""Analytic-Precond (Zheng et al. 2025, arXiv 2502.02922): coefficients computed from the teacher.

With lambda = -log t, pick l(lambda), let L = exp(int l) and g = D - (1 - l) x; then
d(L x)/dlambda = L g. Pick s(lambda), let S = exp(-int s) and eta = int (L/S): d(L x) = (S g) d eta.
One Euler step with S g held at t (forward) or at s (backward) gives, with
c = S (eta_s - eta_t)/L_s and S read at t or at s,

    forward :  alpha = c,                     beta = L_t/L_s - c (1 - l_t)
    backward:  alpha = c / (1 + c (1 - l_s)), beta = (L_t/L_s) / (1 + c (1 - l_s))

l minimises E||grad g||_F and s minimises E||dg/dlambda - s g||^2 over the teacher's own marginals.
l = 1, s = 0 is `ctm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.api import Coeffs, DenoiserForm, Params, edm_inner, register_precond

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.probe import Probe
    from preconds.calibration.curves import Curves


@register_precond("analytic")
class Analytic(DenoiserForm):
    """The paper's backward form by default; `form: forward` is kept as the ablation.

    `centre: true` writes the jump around the teacher's mean m = E[D(x, sigma_max)], without which
    E||g||^2 cannot fall below ||m||^2 at high noise and the strategy returns to `ctm`.
    """

    class Params(Params):
        """`statistics`: Jacobian-free moments or the paper's Jacobian-vector products."""

        statistics: Literal["moments", "jvp"] = "moments"
        form: Literal["backward", "forward"] = "backward"
        centre: bool = False
        levels: int = Field(default=120, ge=8)
        samples: int = Field(default=4096, ge=8)

    def calibrate(self, probe: Probe) -> dict[str, Tensor]:
        """Measure l and log S on the probe's noise levels (preconds/calibration/statistics.py)."""
        from preconds.calibration import statistics

        return statistics.measure(probe, self.params.statistics, self.params.centre)

    def load(self, artifact):  # type: ignore[no-untyped-def]
        """See `Preconditioning.load`."""
        self._curves: Curves | None = None
        return super().load(artifact)

    @property
    def curves(self) -> Curves:
        """The measured l, L, S and eta, interpolated.

        Raises:
            RuntimeError: the strategy was used before it was calibrated.
        """
        from preconds.calibration.curves import Curves

        if not self.artifact:
            raise RuntimeError("analytic has no coefficients before calibration: see api.calibrate")
        if self._curves is None:
            self._curves = Curves(
                self.artifact["sigma"], self.artifact["l"], self.artifact["log_S"]
            )
        return self._curves

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `DenoiserForm.outer`."""
        at_t, at_s = self.curves.at(t), self.curves.at(s)
        decay = (at_t.log_L - at_s.log_L).exp()
        if self.params.form == "forward":
            c = self.curves.eta_between(at_t, at_s) * (at_t.log_S - at_s.log_L).exp()
            return c, decay - c * (1 - at_t.l)
        c = self.curves.eta_between(at_t, at_s) * (at_s.log_S - at_s.log_L).exp()
        damping = 1 + c * (1 - at_s.l)
        return c / damping, decay / damping

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """EDM's own denoiser: both forms are tangent whatever l and S are."""
        return Coeffs(*edm_inner(t, self.sigma_data))
