"""Analytic-Precond (Zheng et al. 2025, arXiv 2502.02922): coefficients computed from the teacher.

With lambda = -log t, pick l(lambda), let L = exp(int l) and g = D - (1 - l) x; then
d(L x)/dlambda = L g. Pick s(lambda), let S = exp(-int s) and eta = int (L/S): d(L x) = (S g) d eta.
One Euler step with S g frozen, and c = S (eta_s - eta_t)/L_s, gives

    forward  (x of g at t):  alpha = c,                   beta = L_t/L_s - c (1 - l)
    backward (x of g at s):  alpha = c / (1 + c (1 - l)), beta = (L_t/L_s) / (1 + c (1 - l))

with S and l read at t (forward) or at s (backward). l minimises E||grad g||_F and s minimises
E||dg/dlambda - s g||^2 over the teacher's own marginals. l = 1, s = 0 is `ctm`.

Where the paper is ambiguous, parameters select other readings: S and l may be taken at the other
end of the jump than x (semi-implicit steps), D_theta may be EDM's denoiser at s instead of t, and
the conditioning sigma may be another noise level than t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

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

    from harness.core.probe import Probe
    from preconds.calibration.curves import Curves


class AnalyticParams(Params):
    """Parameters of the measurement (the first four), and of the step.

    - `statistics`: how l and S are estimated, see preconds/calibration/statistics.py; `levels`:
      number of noise levels; `samples`: number of samples at each;
    - `tolerance`: sample until the standard error of every jump is below it, in standard deviations
      of the data at s, using at most `samples`;
    - `centre`: centre the jump at the teacher's mean m = E[D(x, sigma_max)]; otherwise E||g||^2
      cannot fall below ||m||^2 at high noise, where the preconditioning then tends to `ctm`;
    - `form`: backward is the paper's; forward has alpha up to 1e7 on long jumps; `blend` mixes
      them, with the smallest share of the backward form, at least `share`, that keeps
      alpha <= `cap` (or all of it, where the backward form itself exceeds that);
    - `S_at`, `l_at`: where S and l are taken; `form` means with x, at t (forward) or s (backward);
    - `inner`: the level of EDM's map in D_theta. s: D_theta = c_skip(s) y + c_out(s) F with
      y = x sqrt((s^2 + sd^2)/(t^2 + sd^2)), the state at s if the data were Gaussian;
    - `told`: the conditioning sigma of the network; middle is sqrt(t s). With `inner: s` and
      `told: s` an untrained student applies the teacher's denoiser at s to y.
    """

    statistics: Literal["moments", "stein", "jvp"] = "moments"
    levels: int = Field(default=120, ge=8)
    samples: int = Field(default=4096, ge=8)
    tolerance: float | None = Field(default=None, gt=0)
    centre: bool = False
    form: Literal["backward", "forward", "blend"] = "backward"
    cap: float = Field(default=1.0, gt=0)
    share: float = Field(default=0.0, ge=0, le=1)
    S_at: Literal["form", "t", "s"] = "form"
    l_at: Literal["form", "t", "s"] = "form"
    inner: Literal["t", "s"] = "t"
    told: Literal["t", "s", "middle"] = "t"

    @model_validator(mode="after")
    def _read_by_someone(self) -> AnalyticParams:
        blend = self.form == "blend"
        if not blend and (self.cap, self.share) != (1.0, 0.0):
            raise ValueError("cap and share go with form: blend")
        if blend and (self.S_at, self.l_at) != ("form", "form"):
            raise ValueError("S_at and l_at go with form: forward or backward")
        return self


@register_precond("analytic")
class Analytic(DenoiserForm):
    """Analytic-Precond, computed from the teacher; backward form by default, as published."""

    Params = AnalyticParams

    def calibrate(self, probe: Probe) -> dict[str, Tensor]:
        """Measure l and log S on the probe's noise levels (preconds/calibration/statistics.py)."""
        from preconds.calibration import statistics

        return statistics.measure(probe, self.params.statistics)

    def calibration_evaluations(self) -> float:
        """One for every level and sample, 3.5 with Jacobians, and a level more for the mean."""
        p = self.params
        return p.samples * (1 + p.levels * (3.5 if p.statistics == "jvp" else 1))

    @property
    def measured(self) -> dict[str, Any]:
        """See `Preconditioning.measured`: one measurement serves all forms, centred or not."""
        keys = {"statistics", "levels", "samples", "tolerance"}
        told = self.params.model_dump(mode="json", include=keys, exclude_none=True)
        return {"curves": 1, **told}

    def shown(self) -> dict[str, Tensor]:
        """See `Preconditioning.shown`: l and log S as they are used, centred or not."""
        end = "_centred" if self.params.centre else ""
        keys = {"sigma": "sigma", "l": "l", "log_S": f"log_S{end}", "flat": f"flat{end}"}
        return {name: self.artifact[key] for name, key in keys.items()}

    def load(self, artifact):  # type: ignore[no-untyped-def]
        """See `Preconditioning.load`."""
        self._curves: Curves | None = None
        return super().load(artifact)

    @property
    def curves(self) -> Curves:
        """The measured l, L, S and eta, interpolated.

        Raises:
            RuntimeError: the preconditioning was used before it was calibrated.
        """
        from preconds.calibration.curves import Curves

        if not self.artifact:
            raise RuntimeError("analytic has no coefficients before calibration: see api.calibrate")
        if self._curves is None:
            log_S = self.artifact["log_S_centred" if self.params.centre else "log_S"]
            self._curves = Curves(self.artifact["sigma"], self.artifact["l"], log_S)
        return self._curves

    @property
    def offset(self) -> Tensor | None:
        """The teacher's mean [*shape] if `centre` is set, else None."""
        return self.artifact.get("offset") if self.params.centre else None

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `DenoiserForm.outer`."""
        at_t, at_s = self.curves.at(t), self.curves.at(s)
        p = self.params
        if p.form != "blend":
            own = "t" if p.form == "forward" else "s"
            ends = {"t": at_t, "s": at_s, "form": at_t if own == "t" else at_s}
            return self.curves.step(at_t, at_s, S=ends[p.S_at], l=ends[p.l_at], implicit=own == "s")
        ahead = self.curves.step(at_t, at_s, S=at_t, l=at_t, implicit=False)
        back = self.curves.step(at_t, at_s, S=at_s, l=at_s, implicit=True)
        between, over = ahead[0] - back[0], ahead[0] - p.cap
        share = (over / between).where(between > 0, (over > 0).double()).clamp(p.share, 1)
        alpha, beta = (a + share * (b - a) for a, b in zip(ahead, back, strict=True))
        return alpha, beta

    def inner(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `DenoiserForm.inner`."""
        if self.params.inner == "t":
            return edm_inner(t, self.sigma_data)
        return carried_inner(t, s, self.sigma_data)

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`; with `inner: s`, y is centred at the mean too."""
        found = super().coeffs(t, s)
        if found.shift is None or self.params.inner == "t":
            return found
        skip, out = self.inner(t, s)
        alpha = found.out / out
        return found._replace(shift=found.shift + alpha * (edm_inner(s, self.sigma_data)[0] - skip))

    def conditioning_sigma(self, t: Tensor, s: Tensor) -> Tensor:
        """See `Preconditioning.conditioning_sigma`."""
        return {"t": t, "s": s, "middle": (t * s).sqrt()}[self.params.told]

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """EDM's denoiser: every variant is tangent, whatever l and S are."""
        return Coeffs(*edm_inner(t, self.sigma_data))
