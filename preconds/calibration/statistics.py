"""Estimators of Analytic-Precond's two curves, l and S, from a teacher (docs/mathematics.md).

With x = x_0 + t eps and g = D - (1 - l) x:

- trace: l = 1 - E[tr grad D]/d. `moments` uses Stein's lemma with x_0 as control variate and the
  ratio form, l = 1 - sum <eps, D - x_0> / (t sum <eps, eps>), no derivative at all; `jvp` uses
  Hutchinson's sum <v, (grad D) v> / sum <v, v> with random signs v independent of x.
- scale: `moments` uses that the ODE preserves the marginals, so 2 E<g, dg/dlambda> =
  d/dlambda E||g||^2 and S = 1/RMS(g); `jvp` integrates s = E<g, dg/dlambda> / E||g||^2, with
  dg/dlambda = J - (1 - l)(D - x) + (dl/dlambda) x, J being D's Jacobian times (D - x, -t).

Every inner product is accumulated in float64 and combined at the end, when l is known, so that one
pass over the samples of a level suffices. (At high noise g is a small difference of large terms:
that is why the probe is antithetic and why nothing here is float32.)
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import Tensor

from harness.api import HarnessError
from harness.core.probe import Probe

#: steepest |d log S/dlambda| that is believed. RMS(g) falls like t^-3 at high noise for centred,
#: symmetric data, the fastest seen; a noisy Jacobian estimate can give 1000 there.
STEEPEST = 6.0


def measure(probe: Probe, statistics: Literal["moments", "jvp"], centre: bool) -> dict[str, Tensor]:
    """Measure l and log S at every noise level of the probe.

    Returns:
        sigma, l, log_S [levels], float64, noisiest first; `offset` (the teacher's mean) if centred;
        and for the record: `clipped` (how far l was moved into [0, 1] at most, and at how many
        levels), `flat` (levels where g vanishes and S is continued), `bounded` (how many slopes of
        log S were cut to `STEEPEST`), `seconds`, `evaluations`.

    Raises:
        HarnessError: the teacher returned values that are not finite.
    """
    started = time.perf_counter()
    mean = _teacher_mean(probe) if centre else torch.zeros(probe.shape, dtype=torch.float64)
    mean = mean.to(probe.device)
    rows = [_level(probe, float(t), mean, statistics == "jvp") for t in probe.sigma]
    sums = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    if not all(bool(value.isfinite().all()) for value in sums.values()):
        raise HarnessError(
            "calibration: the teacher's denoiser returned values that are not finite"
        )

    lam = -probe.sigma.log()
    raw_l = 1 - sums["trace"]
    l = raw_l.clamp(0, 1)
    gg = sums["DD"] - 2 * (1 - l) * sums["Dx"] + (1 - l) ** 2 * sums["xx"]
    flat = gg <= 1e-13 * sums["DD"]
    if statistics == "moments":
        log_S = -0.5 * gg.clamp_min(1e-300).log()
        bounded = torch.tensor(0)
    else:
        dl = torch.gradient(l, spacing=(lam,))[0]
        gJ = sums["DJ"] - (1 - l) * sums["xJ"]
        gD = sums["DD"] - (1 - l) * sums["Dx"]
        gx = sums["Dx"] - (1 - l) * sums["xx"]
        # D and x are centred here, D - x is not changed by that
        slope = (gJ - (1 - l) * (gD - gx) + dl * gx) / gg.clamp_min(1e-300)
        slope = torch.where(flat, 0.0, slope)
        unbounded, slope = slope, slope.clamp(-STEEPEST, STEEPEST)
        bounded = (slope != unbounded).sum()
        log_S = -torch.cat([slope.new_zeros(1), torch.cumulative_trapezoid(slope, lam)])
    log_S = _continue_over(log_S, flat)
    result = {
        "sigma": probe.sigma.clone(),
        "l": l,
        "log_S": log_S - log_S[len(log_S) // 2],
        "clipped": torch.tensor(
            [float((raw_l - l).abs().max()), float((raw_l != l).sum())], dtype=torch.float64
        ),
        "flat": flat.double(),
        "bounded": bounded.double(),
        "evaluations": torch.tensor(float(probe.evaluations), dtype=torch.float64),
        "seconds": torch.tensor(time.perf_counter() - started, dtype=torch.float64),
    }
    if centre:
        result["offset"] = mean.cpu()
    return result


def _teacher_mean(probe: Probe) -> Tensor:
    """m = E[D(x, sigma_max)]: the mean the teacher itself falls back to, free of sampling noise."""
    total = torch.zeros(probe.shape, dtype=torch.float64, device=probe.device)
    t = probe.sigma[0].to(probe.device)
    for x0, eps, _, labels in probe.draws():
        total += probe.denoise(x0 + t * eps, t, labels).sum(0)
    return total / probe.samples


def _level(probe: Probe, t: float, mean: Tensor, jvp: bool) -> dict[str, Tensor]:
    """Per-coordinate means of the inner products at one noise level; D and x are centred by m."""
    sums: dict[str, Tensor] = {}

    def add(name: str, a: Tensor, b: Tensor) -> None:
        sums[name] = sums.get(name, 0) + (a.flatten() @ b.flatten()).cpu()

    sigma = torch.tensor(t, dtype=torch.float64, device=probe.device)
    for x0, eps, v, labels in probe.draws():
        x = x0 + sigma * eps
        if jvp:
            zero = torch.zeros_like(sigma)
            D, along_v = probe.denoise_jvp(x, sigma, v, zero, labels)
            _, J = probe.denoise_jvp(x, sigma, D - x, -sigma, labels)
            add("trace", v, along_v)
            add("probe", v, v)
        else:
            D = probe.denoise(x, sigma, labels)
            add("trace", eps, (D - x0) / sigma)
            add("probe", eps, eps)
        D, x = D - mean, x - mean
        add("DD", D, D)
        add("Dx", D, x)
        add("xx", x, x)
        if jvp:
            add("DJ", D, J)
            add("xJ", x, J)
    trace = sums.pop("trace") / sums.pop("probe")
    coordinates = probe.samples * mean.numel()
    return {"trace": trace, **{key: value / coordinates for key, value in sums.items()}}


def _continue_over(log_S: Tensor, flat: Tensor) -> Tensor:
    """Hold S at its nearest measured value where g vanishes (all of it, for Gaussian data)."""
    known = (~flat).nonzero()[:, 0]
    if len(known) == 0:
        return torch.zeros_like(log_S)
    nearest = (torch.arange(len(log_S))[:, None] - known).abs().argmin(1)
    return log_S[known[nearest]]
