"""Coefficients per frequency: `arc` or `moment`, applied to each band of the data's spectrum.

All other preconditionings have scalar coefficients of x and F. The variance of natural images falls
by four orders of magnitude from the lowest frequency to the highest, and with it the noise level at
which a frequency appears, so that a scalar suits almost no frequency. Here x is expressed in
principal directions (vectors), or in cosines and principal colours (images). A band of coordinates
with variance of about lambda_k has an angle theta_k = arctan(t/sqrt(lambda_k)) and coefficients of
its own, computed from the teacher's trajectories as in `arc` or `moment`:

    f_k = m_k + beta_k z_k + alpha_k (D_theta - m)_k,    alpha_k = (1 - s/t) a_k

(docs/mathematics.md, "Coefficients per frequency"). D_theta keeps EDM's form with scalar c_skip and
c_out, so that published weights remain usable. Exact before training for every Gaussian teacher,
whatever its covariance.

Better before and early in training if directions differ much in variance; otherwise it is the same
as the scalar preconditioning. For the effect at the end of training see docs/findings.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from harness.api import Basis, Coeffs, ConfigError, edm_inner, register_precond
from preconds.arc import Arc
from preconds.calibration.rotation import Rotation, RotationParams
from preconds.moment import Moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from harness.core.probe import Probe


class SpectralParams(RotationParams):
    """Parameters of the measurement, and of the bands.

    - `rule`: the preconditioning applied in every band; `variance` is `moment` with `tangent:
      false`;
    - `bands`: their largest number; fewer if the measurement has too few values for as many (LEAST
      in preconds/calibration/spectrum.py). With one band it is the scalar preconditioning of the
      rule;
    - `directions`: number of separate clean samples for the principal directions. 0: they are
      estimated from the samples of the measurement, which makes variances along the last directions
      too small, by up to 1.7 squared in 192 dimensions.
    """

    rule: Literal["arc", "moment", "variance"] = "arc"
    bands: int = Field(default=16, ge=1)
    directions: int = Field(default=0, ge=0)


@register_precond("spectral")
class Spectral(Rotation):
    """`arc` or `moment` with coefficients of their own for each band of the data's spectrum."""

    Params = SpectralParams

    def __init__(self, params: Any = None, **context: float) -> None:
        self._basis: Basis | None = None
        super().__init__(params, **context)
        self.tangent = self.params.rule != "variance"
        self.banded = self.params.bands > 1

    @property
    def basis(self) -> Basis | None:
        """See `Preconditioning.basis`; None with one band, or before the calibration."""
        return self._basis

    def calibrate(self, probe: Probe) -> dict[str, Tensor]:
        """See `Rotation.calibrate`."""
        from preconds.calibration import trajectories

        return trajectories.measure(probe, self.sigma_data, self.params.directions)

    @property
    def measured(self) -> dict[str, Any]:
        """See `Preconditioning.measured`; shared with scalar ones unless `directions` > 0."""
        own = {"directions": self.params.directions} if self.params.directions else {}
        return {**super().measured, **own}

    def load(self, artifact: Mapping[str, Tensor]) -> Self:
        """See `Preconditioning.load`; merges groups of coordinates into bands.

        Raises:
            ConfigError: too few trajectories were measured for two bands.
        """
        import torch

        from preconds.calibration.spectrum import LEAST, merged

        super().load(artifact)
        self._basis = None
        if self.params.bands == 1 or not artifact:
            return self
        groups, sizes = artifact["groups"], artifact["sizes"].cpu()
        variance = artifact["z0z0"].cpu() / sizes
        samples, least = int(artifact["trajectories"]), self.sigma_min**2
        self._members = merged(variance, sizes, samples, self.params.bands, least)
        count = int(self._members.max()) + 1
        if count == 1 and len(sizes) > 1:
            raise ConfigError(
                f"precond 'spectral': {samples} trajectories of {int(sizes.sum())} coordinates are"
                f" too few for two bands, which need {LEAST} values each: give samples: {LEAST}, or"
                " bands: 1"
            )
        axes = [artifact[f"axis{k}"] for k in range(groups.dim())]
        self.deviations = [
            max(float((variance[of] * sizes[of]).sum() / sizes[of].sum()), least) ** 0.5
            for of in (self._members == band for band in range(count))
        ]
        deviations = torch.tensor(self.deviations, dtype=torch.float64, device=groups.device)
        self._basis = Basis(axes, self._members.to(groups.device)[groups], deviations)
        return self

    @property
    def tables(self) -> Tensor:
        """See `Rotation.tables`; [2, bands, levels, levels], or [2, levels, levels] of one band."""
        import torch

        from preconds.calibration.spectrum import of_band

        if not self.artifact:
            return super().tables  # which raises
        if self._tables is None:
            if self._basis is None:
                self._tables = self._scalar(self.sigma_data, self.artifact).tables
            else:
                device = self.artifact["sigma"].device
                bands = [
                    self._scalar(sd, of_band(self.artifact, (self._members == k).to(device), sd))
                    for k, sd in enumerate(self.deviations)
                ]
                self._tables = torch.stack([each.tables for each in bands], 1)
        return self._tables

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and beta as in `Rotation.outer`, with one more axis at the end for the bands."""
        import torch

        if self._basis is None:
            return super().outer(t, s)
        a, e = self._at(t, s).movedim(1, -1)
        t, s = t[..., None], s[..., None]
        sd = torch.tensor(self.deviations, dtype=torch.float64, device=t.device)
        total, way = t * t + sd * sd, 1 - s / t
        return way * a, 1 - way * (1 - (1 - a) * sd * sd / total - e * t * sd / total)

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`; D_theta has EDM's c_skip and c_out in every band."""
        if self._basis is None:
            return super().coeffs(t, s)
        alpha, beta = self.outer(t, s)
        c_skip, c_out = (each[..., None] for each in edm_inner(t, self.sigma_data))
        return Coeffs(beta + alpha * c_skip, alpha * c_out, 1 - alpha - beta)

    def _scalar(self, sd: float, artifact: dict[str, Tensor]) -> Rotation:
        """The scalar preconditioning of `rule` with sigma_data = sd and the given measurement."""
        context = {"sigma_data": sd, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        if self.params.rule == "arc":
            return Arc(**context).load(artifact)
        return Moment(Moment.Params(tangent=self.tangent), **context).load(artifact)
