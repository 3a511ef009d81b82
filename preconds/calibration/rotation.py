"""Base of preconditionings with two measured tables a(t, s), e(t, s), which generalise `ctm`.

In the notation of preconds/calibration/trajectories.py, f = m + r_s [(cos + e sin) x^ + a sin F^].
a = 1, e = 0 is `ctm`. A preconditioning with this limit as s -> t is tangent; the factor sin makes
the boundary condition exact for any a and e.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.api import Coeffs, DenoiserForm, Params, edm_inner

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.probe import Probe
    from preconds.calibration.trajectories import JumpMoments


class RotationParams(Params):
    """Parameters of the measurement: noise `levels` of the tables, `samples` trajectories."""

    levels: int = Field(default=40, ge=8)
    samples: int = Field(default=2048, ge=8)


class ScalarParams(RotationParams):
    """Parameters of the measurement for preconditionings with scalar coefficients.

    `tolerance`: sample until the standard error of every jump is below it, in standard deviations
    of the data at s, using at most `samples`.
    """

    tolerance: float | None = Field(default=None, gt=0)


class Rotation(DenoiserForm):
    """Base of preconditionings that compute a and e from moments of the teacher's trajectories.

    The measurement is the same for all of them and is shared. Jumps are centred at the teacher's
    mean.
    """

    Params = ScalarParams

    def table(self, moments: JumpMoments, way: Tensor) -> tuple[Tensor, Tensor]:
        """(a, e) [levels (t), levels (s)]; `way` is 1 - s/t. Only entries with s < t are used."""
        raise self.lacks("table(self, moments, way)")

    def diagonal(self, moments: JumpMoments) -> tuple[Tensor, Tensor]:
        """(a, e) at s = t, [levels]: (1, 0) as for `ctm`; overridden if not tangent."""
        import torch

        zero = torch.zeros_like(moments.network_rms[:, 0])
        return zero + 1, zero

    def calibrate(self, probe: Probe) -> dict[str, Tensor]:
        """Follow the teacher's trajectories through the probe's noise levels."""
        from preconds.calibration import trajectories

        return trajectories.measure(probe, self.sigma_data)

    def calibration_evaluations(self) -> float:
        """Of every trajectory D at each level, two Heun steps of two between them, and the mean."""
        p = self.params
        return p.samples * (1 + p.levels + 4 * (p.levels - 1))

    @property
    def measured(self) -> dict[str, Any]:
        """See `Preconditioning.measured`."""
        keys = {"levels", "samples", "tolerance"}
        told = self.params.model_dump(mode="json", include=keys, exclude_none=True)
        return {"trajectories": 2, **told}

    def load(self, artifact):  # type: ignore[no-untyped-def]
        """See `Preconditioning.load`."""
        self._tables: Tensor | None = None
        return super().load(artifact)

    @property
    def tables(self) -> Tensor:
        """a and e at all pairs of levels, [2, levels, levels]; a is 1 where RMS F is below SILENT.

        Entries with s > t continue the tables oddly, A(s, t) = A(t, t) + A(s, s) - A(t, s), so that
        interpolation reproduces the values on the diagonal and the slope there.

        Raises:
            RuntimeError: the preconditioning was used before it was calibrated.
        """
        import torch

        from preconds.calibration.trajectories import SILENT, moments

        if not self.artifact:
            raise RuntimeError(
                f"{self.name} has no coefficients before calibration: see api.calibrate"
            )
        if self._tables is None:
            found = moments(self.artifact)
            sigma = self.artifact["sigma"]
            a, e = self.table(found, 1 - sigma / sigma[:, None])
            a_end, e_end = self.diagonal(found)
            above = torch.stack([torch.where(found.network_rms > SILENT, a, 1.0), e]).triu(1)
            ends = torch.stack([torch.where(found.network_rms[:, 0] > SILENT, a_end, 1.0), e_end])
            own = ends[:, :, None] + ends[:, None, :]
            below = (own - above.mT).tril(-1)
            self._tables = above + below + torch.diag_embed(ends)
        return self._tables

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """alpha = (1 - s/t) a, beta = s/t + (1 - s/t) ((1 - a) c_skip + e c_out/r_t)."""
        a, e = self._at(t, s)
        c_skip, c_out = edm_inner(t, self.sigma_data)
        way = 1 - s / t
        radius = (t * t + self.sigma_data**2).sqrt()
        return way * a, 1 - way * (1 - (1 - a) * c_skip - e * c_out / radius)

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """EDM's denoiser if the preconditioning is tangent, else see `Preconditioning`."""
        if not self.tangent:
            return super().denoiser_coeffs(t)
        return Coeffs(*edm_inner(t, self.sigma_data))

    def _at(self, t: Tensor, s: Tensor) -> Tensor:
        """The tables at (t, s), [2, ...]: cubic convolution in -log t and -log s (Keys 1981)."""
        import torch

        tables = self.tables
        sigma = self.artifact["sigma"]
        last = len(sigma) - 1
        step = (sigma[0] / sigma[-1]).log() / last
        t, s = torch.broadcast_tensors(t, s)
        cells, weights = [], []
        for level in (t, s):
            place = ((sigma[0].log() - level.log()) / step).clamp(0, last)
            cell = place.detach().floor().clamp(max=last - 1)
            u = place - cell
            cells.append(cell.long())
            weights.append(
                [
                    ((2 - u) * u - 1) * u / 2,
                    ((3 * u - 5) * u * u + 2) / 2,
                    ((4 - 3 * u) * u + 1) * u / 2,
                    (u - 1) * u * u / 2,
                ]
            )
        total = torch.zeros(*tables.shape[:-2], *t.shape, dtype=torch.float64, device=t.device)
        for i in range(4):
            for j in range(4):
                row = (cells[0] + i - 1).clamp(0, last)
                column = (cells[1] + j - 1).clamp(0, last)
                total = total + weights[0][i] * weights[1][j] * tables[..., row, column]
        return total
