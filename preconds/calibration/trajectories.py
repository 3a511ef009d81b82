"""Second moments of the teacher's trajectories for every jump (docs/mathematics.md).

In r = sqrt(t^2 + sd^2) and theta = arctan(t/sd), with x^ = (x - m)/r and the teacher's raw output
F^ = ((D - m) - c_skip (x - m))/c_out, the ODE is a rotation, dx^/dtheta = -F^, and `ctm` the step
x^_s = cos(theta_t - theta_s) x^_t + sin(theta_t - theta_s) F. So

    Y(t, s) = (x^_s - cos x^_t) / sin

is the network output for which `ctm`'s jump is exact; Y -> F^ as s -> t. The error before training
of any preconditioning linear in x and F is determined by the second moments of (Y, F^, x^).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from harness.api import Basis, HarnessError, edm_inner
from harness.core.probe import Draw, Probe
from harness.core.solver import heun
from preconds.calibration.spectrum import principal_basis, sums_by_group
from preconds.calibration.statistics import teacher_mean

#: Heun steps between neighbouring levels, geometric in t
SUBSTEPS = 2
#: RMS of F below which F is rounding error (Gaussian data): D is then linear in x
SILENT = 1e-10
#: names of the moments over all coordinates
OF_ALL = ("xx", "Fx", "FF", "Yx", "YF", "YY")


def measure(probe: Probe, sigma_data: float, directions: int = 0) -> dict[str, Tensor]:
    """Second moments of (Y, F^, x^) along trajectories from sigma_max through all levels.

    Trajectories start from x_0 + sigma_max eps and thus have the teacher's marginal at every level.
    `directions`: see `principal_basis`.

    Returns:
        sigma [levels]; xx, Fx, FF [levels] and Yx, YF, YY [levels (t), levels (s)], means over
        samples and coordinates, zero unless s < t; `offset`, the teacher's mean m. In addition the
        basis, its groups of coordinates and their moments, see preconds/calibration/spectrum.py.

    Raises:
        HarnessError: a trajectory is not finite.
    """
    mean = teacher_mean(probe)
    axes, groups = principal_basis(probe, mean, directions)
    basis = Basis(axes, groups).to(probe.device)
    angle = (probe.sigma / sigma_data).arctan()
    turn = (angle[:, None] - angle).sin().triu(1)

    def jumps(sums: dict[str, Tensor]) -> Tensor:
        """Quantities whose standard error a tolerance bounds: b, R and phi, times sin."""
        found = moments({name: sums[name] / sums["samples"] / size for name in OF_ALL})
        parts = (found.target_slope, found.target_rms, found.network_rms)
        return torch.stack([turn * part for part in parts])

    size = math.prod(probe.shape)
    sums = probe.add_up(lambda draw: _products(probe, draw, mean, sigma_data, basis), jumps)
    if not all(bool(value.isfinite().all()) for value in sums.values()):
        raise HarnessError("calibration: the teacher's ODE has a trajectory that is not finite")
    samples = int(sums.pop("samples"))
    counts = {name: samples * size if name in OF_ALL else samples for name in sums}
    return {
        "sigma": probe.sigma.clone(),
        **{name: value / counts[name] for name, value in sums.items()},
        "offset": mean.cpu(),
        **{f"axis{k}": axis for k, axis in enumerate(axes)},
        "groups": groups,
        "sizes": groups.flatten().bincount(),
        "trajectories": torch.tensor(samples),
    }


def _products(
    probe: Probe, draw: Draw, mean: Tensor, sigma_data: float, basis: Basis
) -> dict[str, Tensor]:
    """The moments of `measure`, summed over a batch."""
    sigma = probe.sigma.to(probe.device)
    radius = (sigma * sigma + sigma_data**2).sqrt()
    c_skip, c_out = edm_inner(sigma, sigma_data)
    fraction = torch.linspace(0, 1, SUBSTEPS + 1, dtype=torch.float64, device=probe.device)
    x = draw.x0 + sigma[0] * draw.eps
    places, outputs, away, denoised = [], [], [], []
    for k, t in enumerate(sigma):
        if k > 0:
            times = sigma[k - 1] * (t / sigma[k - 1]) ** fraction
            x = heun(lambda x, u: probe.denoise(x, u, draw.labels), x, times)
        D = probe.denoise(x, t, draw.labels)
        away.append(x - mean)
        denoised.append(D - mean)
        places.append(((x - mean) / radius[k]).flatten())
        outputs.append((((D - mean) - c_skip[k] * (x - mean)) / c_out[k]).flatten())
    P, F = torch.stack(places), torch.stack(outputs)
    angle = (sigma / sigma_data).arctan()
    sums = {"xx": (P * P).sum(1), "Fx": (F * P).sum(1), "FF": (F * F).sum(1)}
    pairs = {name: P.new_zeros(len(sigma), len(sigma)) for name in ("Yx", "YF", "YY")}
    for k in range(len(sigma) - 1):
        turn = (angle[k] - angle[k + 1 :])[:, None]
        Y = (P[k + 1 :] - turn.cos() * P[k]) / turn.sin()
        pairs["Yx"][k, k + 1 :] = Y @ P[k]
        pairs["YF"][k, k + 1 :] = Y @ F[k]
        pairs["YY"][k, k + 1 :] = (Y * Y).sum(1)
    return sums | pairs | sums_by_group(basis, sigma, away, denoised, draw.x0 - mean)


class JumpMoments(NamedTuple):
    """Regressions that determine jumps t -> s, [levels (t), levels (s)], valid for s < t.

    With F = F^ - k x^, the part of the teacher's output that is not linear in x:

    Attributes:
        target_slope: b, regression of Y on x^.
        network_slope: k, regression of F^ on x^, [levels, 1]; 0 if exact and centred.
        network_rms: phi, RMS of F, [levels, 1].
        target_rms: R, RMS of Y - b x^.
        correlation: c, correlation of F with Y - b x^; -> 1 as s -> t.
    """

    target_slope: Tensor
    network_slope: Tensor
    network_rms: Tensor
    target_rms: Tensor
    correlation: Tensor

    def least_squares(self, noise: Tensor) -> Tensor:
        """a that minimises E||Y - b x^ - a F||^2 + a^2 noise."""
        common = self.correlation * self.target_rms * self.network_rms
        return common / (self.network_rms**2 + noise).clamp_min(SILENT**2)


def moments(artifact: dict[str, Tensor]) -> JumpMoments:
    """Compute the regressions and the correlation from a measurement."""
    xx, Fx, FF = (artifact[name][:, None] for name in ("xx", "Fx", "FF"))
    Yx, YF, YY = (artifact[name] for name in ("Yx", "YF", "YY"))
    network_rms = (FF - Fx * Fx / xx).clamp_min(0).sqrt()
    target_rms = (YY - Yx * Yx / xx).clamp_min(0).sqrt()
    common = YF - Fx * Yx / xx
    correlation = common / (network_rms * target_rms).clamp_min(SILENT**2)
    return JumpMoments(Yx / xx, Fx / xx, network_rms, target_rms, correlation.clamp(-1, 1))
