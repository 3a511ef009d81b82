"""Estimators of Analytic-Precond's two curves, l and S, from a teacher (docs/mathematics.md).

With x = x_0 + t eps and g = D - (1 - l) x; sums are over samples and coordinates:

| `statistics` | l = 1 - | S |
|---|---|---|
| moments | sum <eps, D - x_0> / (t sum <eps, eps>) | 1 / RMS(g) |
| stein | E<eps, D - x_0> / (t d) | 1 / RMS(g) |
| jvp | sum <v, (grad D) v> / sum <v, v> | exp(-int s), s = E<g, dg/dlambda> / E||g||^2 |

The first two use Stein's lemma, E<eps, D> = t E[tr grad D], with x_0 as control variate; the ratio
of `moments` removes the noise of <eps, eps>, which dominates at small t. Both use that the ODE
preserves the marginals, so that 2 E<g, dg/dlambda> = d/dlambda E||g||^2. `jvp` is the paper's
estimator: Hutchinson's trace, with random signs v on half of the samples, and dg/dlambda =
J - (1 - l)(D - x) + (dl/dlambda) x, J being the derivative of D along the ODE.

Every inner product is accumulated in float64 and combined at the end, when l is known, so that one
pass over the samples suffices. At high noise g is a small difference of large terms, hence the
antithetic samples of the probe and float64 throughout.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from harness.api import HarnessError, edm_inner
from harness.core.probe import STEP, Draw, Probe
from harness.core.schedule import karras
from preconds.calibration.curves import Curves

Statistics = Literal["moments", "stein", "jvp"]

#: bound of |d log S/dlambda|. RMS(g) falls like t^-3 at high noise for centred, symmetric data, the
#: fastest decay observed; a noisy Jacobian estimate can give a slope of 1000 there.
STEEPEST = 6.0
#: suffix of the names of quantities centred at the teacher's mean
CENTRED = "_centred"
#: a tolerance applies to jumps between this number of Karras levels, as in training
NODES = 18


def measure(probe: Probe, statistics: Statistics) -> dict[str, Tensor]:
    """Measure l and log S at every noise level of the probe, S with and without centring.

    Returns:
        sigma, l, log_S, log_S_centred [levels], float64, noisiest first; `offset`, the teacher's
        mean m in the centred g_c = (D - m) - (1 - l)(x - m). Diagnostics: `clipped` (the largest
        change of l when clipped to [0, 1], and the number of levels), `flat` and `flat_centred`
        (1 at levels where g vanishes and S is continued), `bounded` and `bounded_centred` (number
        of slopes of log S that were limited to `STEEPEST`).

    Raises:
        HarnessError: the teacher returned values that are not finite.
    """
    mean = teacher_mean(probe)

    def jumps(sums: dict[str, Tensor]) -> Tensor:
        """Quantities whose standard error a tolerance bounds: jumps, with and without centring."""
        found = _curves(probe, sums, statistics)
        both = (Curves(found["sigma"], found["l"], found[f"log_S{kind}"]) for kind in ("", CENTRED))
        return torch.stack([_moved(curves, probe) for curves in both])

    sums = probe.add_up(lambda draw: _inner_products(probe, draw, mean, statistics), jumps)
    _require_finite(sums)
    return {"offset": mean.cpu(), **_curves(probe, sums, statistics)}


def _curves(probe: Probe, sums: dict[str, Tensor], statistics: Statistics) -> dict[str, Tensor]:
    """The result of `measure` without the mean, from inner products summed over samples."""
    norm = sums["samples"] * math.prod(probe.shape) if statistics == "stein" else sums["probe"]
    raw_l = 1 - sums["trace"] / norm
    l = raw_l.clamp(0, 1)
    result = {
        "sigma": probe.sigma.clone(),
        "l": l,
        "clipped": torch.tensor(
            [float((raw_l - l).abs().max()), float((raw_l != l).sum())], dtype=torch.float64
        ),
    }
    for kind in ("", CENTRED):
        mine = {name: value for name, value in sums.items() if name.endswith(CENTRED) == bool(kind)}
        mine = {name.removesuffix(CENTRED): value for name, value in mine.items()}
        log_S, flat, bounded = _scale(mine, -probe.sigma.log(), l, statistics == "jvp")
        result |= {f"log_S{kind}": log_S, f"flat{kind}": flat, f"bounded{kind}": bounded}
    return result


def _require_finite(sums: dict[str, Tensor]) -> None:
    if not all(bool(value.isfinite().all()) for value in sums.values()):
        raise HarnessError(
            "calibration: the teacher's denoiser returned values that are not finite"
        )


def _moved(curves: Curves, probe: Probe) -> Tensor:
    """Jumps of the backward form, in standard deviations of the data at s, [2, jumps].

    beta is multiplied by x of size sqrt(t^2 + sd^2), alpha by D of size sd.
    """
    sd = probe.teacher.spec.sigma_data
    nodes = karras(NODES, float(probe.sigma[-1]), float(probe.sigma[0]))
    t, s = nodes[torch.triu_indices(NODES, NODES, 1)]
    to = curves.at(s)
    alpha, beta = curves.step(curves.at(t), to, S=to, l=to, implicit=True)
    size = (s * s + sd * sd).sqrt()
    return torch.stack([alpha * sd / size, beta * (t * t + sd * sd).sqrt() / size])


def teacher_mean(probe: Probe) -> Tensor:
    """The mean of the data according to the teacher, m = E[D(x, sigma_max)], [*shape] float64.

    For the exact denoiser E[D] = E[x_0] at every level. At sigma_max D hardly depends on x; the
    remaining dependence, D = m + c (x - m) with c = c_skip(sigma_max), is solved for m, so that the
    mean of the samples does not enter. m is then accurate to 1e-9, as small as g_c can be there.

    Raises:
        HarnessError: the teacher returned values that are not finite.
    """
    t = probe.sigma[0].to(probe.device)
    c, _ = edm_inner(t, probe.teacher.spec.sigma_data)

    def total(draw: Draw) -> dict[str, Tensor]:
        x = draw.x0 + t * draw.eps
        return {"mean": (probe.denoise(x, t, draw.labels) - c * x).sum(0)}

    sums = probe.add_up(total)
    _require_finite(sums)
    return sums["mean"].to(probe.device) / (sums["samples"].item() * (1 - c.item()))


def _inner_products(
    probe: Probe, draw: Draw, mean: Tensor, statistics: Statistics
) -> dict[str, Tensor]:
    """Inner products summed over a batch, [levels] each."""
    x0, eps, signs, labels = draw
    some = len(x0) // 2
    rows = []
    for t in probe.sigma.to(probe.device):
        x = x0 + t * eps
        D = probe.denoise(x, t, labels)
        slope = None
        if statistics == "jvp":
            slope = probe.slope(x, t, D - x, 1.0, labels)
            # a one-sided difference is as good as a central one: the signs are symmetric
            v = signs[:some]
            ahead = probe.denoise(
                x[:some] + STEP * t * v, t, None if labels is None else labels[:some]
            )
            row = {"trace": _dot(v, (ahead - D[:some]) / (STEP * t)), "probe": _dot(v, v)}
        else:
            row = {"trace": _dot(eps, (D - x0) / t), "probe": _dot(eps, eps)}
        for kind, a, b in (("", D, x), (CENTRED, D - mean, x - mean)):
            row |= {f"DD{kind}": _dot(a, a), f"Dx{kind}": _dot(a, b), f"xx{kind}": _dot(b, b)}
            if slope is not None:
                row |= {f"DJ{kind}": _dot(a, slope), f"xJ{kind}": _dot(b, slope)}
        rows.append(row)
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten() @ b.flatten()


def _scale(
    sums: dict[str, Tensor], lam: Tensor, l: Tensor, by_slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(log S relative to its middle level, 1 where g vanishes, number of limited slopes)."""
    gg = sums["DD"] - 2 * (1 - l) * sums["Dx"] + (1 - l) ** 2 * sums["xx"]
    flat = gg <= 1e-13 * sums["DD"]
    gg = gg.clamp_min(1e-300)
    bounded = torch.tensor(0)
    log_S = -0.5 * gg.log()
    if by_slope:
        dl = torch.gradient(l, spacing=(lam,))[0]
        gJ = sums["DJ"] - (1 - l) * sums["xJ"]
        gD = sums["DD"] - (1 - l) * sums["Dx"]
        gx = sums["Dx"] - (1 - l) * sums["xx"]
        # D - x is the same centred or not
        slope = torch.where(flat, 0.0, (gJ - (1 - l) * (gD - gx) + dl * gx) / gg)
        believed = slope.clamp(-STEEPEST, STEEPEST)
        bounded = (believed != slope).sum()
        log_S = -torch.cat([slope.new_zeros(1), torch.cumulative_trapezoid(believed, lam)])
    known = (~flat).nonzero()[:, 0]
    if len(known) == 0:  # Gaussian data: any S does
        log_S = torch.zeros_like(log_S)
    else:  # hold S at its nearest measured value where g vanishes
        nearest = (torch.arange(len(log_S))[:, None] - known).abs().argmin(1)
        log_S = log_S[known[nearest]]
    return log_S - log_S[len(log_S) // 2], flat.double(), bounded.double()
