"""A preconditioning before training: consistency gaps and error of the untrained student.

For a jump t -> s of the teacher's ODE, x_t -> x_s, let D* be the denoiser output that makes the
student exact: x_s = skip x_t + out F* [+ shift b] and D* = c_skip x_t + c_out F*. Reported are the
RMS over data and coordinates of

    gap to t   D* - D(x_t, t)     what the network must learn away from its teacher
    gap to s   D* - D(x_s, s)     the same, seen from the end of the jump
    untrained  f(x_t, t, s) - x_s with F the teacher's own raw output, at the conditioning sigma

and the RMS over coordinates of

    amplification  out: the error of x_s that an error of 1 in F makes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from harness.api import Dataset, Preconditioning, Teacher, edm_inner
from harness.core.random import normal
from harness.core.solver import solve
from harness.core.student import rescaled


class Gap(NamedTuple):
    """RMS values, see the module's docstring; `size` is the RMS of x_s."""

    to_t: float
    to_s: float
    untrained: float
    amplification: float
    size: float


def measure_gaps(
    preconds: Mapping[str, Preconditioning],
    teacher: Teacher,
    dataset: Dataset,
    levels: Tensor,
    samples: int = 2048,
    substeps: int = 32,
    seed: int = 0,
) -> dict[tuple[str, float, float], Gap]:
    """Gaps of every preconditioning for every pair t > s of `levels` (float64, decreasing).

    x_t is data plus noise; x_s follows by a fine Heun solution of the teacher's ODE.
    """
    spec = teacher.spec
    numbers = torch.arange(samples)
    x0, labels = dataset.draw(seed, "gap", numbers)
    eps = normal(seed, "gap noise", 0, numbers, spec.shape, torch.float64)
    found = {}

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return teacher.denoise(x, t, labels)

    with torch.no_grad():
        for i, t in enumerate(levels[:-1]):
            x_t = x0.double() + t * eps
            D_t = denoise(x_t, t)
            x_s = x_t
            for a, b in zip(levels[i:-1], levels[i + 1 :], strict=True):
                times = torch.stack([a, b])
                x_s = solve(denoise, x_s, times, substeps)
                D_s = denoise(x_s, b)
                for name, precond in preconds.items():
                    level = precond.conditioning_sigma(t, b)
                    raw = _raw(D_t, x_t, t, precond)
                    if level is not t:
                        shown = rescaled(x_t, t, level, precond.sigma_data, precond.offset)
                        raw = _raw(denoise(shown, level), shown, level, precond)
                    found[name, float(t), float(b)] = _gap(precond, t, b, x_t, x_s, D_t, D_s, raw)
    return found


def _raw(D: Tensor, x: Tensor, t: Tensor, precond: Preconditioning) -> Tensor:
    """The raw output F of EDM's denoiser, from D = c_skip x + c_out F."""
    c_skip, c_out = edm_inner(t, precond.sigma_data)
    return (D - c_skip * x) / c_out


def _gap(
    precond: Preconditioning,
    t: Tensor,
    s: Tensor,
    x_t: Tensor,
    x_s: Tensor,
    D_t: Tensor,
    D_s: Tensor,
    raw: Tensor,
) -> Gap:
    skip, out, shift = precond.coeffs(t.reshape(1), s.reshape(1))
    c_skip, c_out = edm_inner(t, precond.sigma_data)
    basis = precond.basis
    offset = None if shift is None else precond.offset.double()
    x, F, end = x_t, raw, x_s
    if basis is not None:  # by coordinate; errors are as long in any orthonormal basis
        skip, out, shift = (
            each if each is None else basis.spread(each) for each in (skip, out, shift)
        )
        x, F, end = (basis.coordinates(each) for each in (x, F, end))
        offset = None if offset is None else basis.coordinates(offset[None])
    constant = 0.0 if shift is None else shift * offset
    wanted = (end - skip * x - constant) / out
    ideal = c_skip * x_t + c_out * (wanted if basis is None else basis.samples(wanted))
    jump = skip * x + out * F + constant

    def rms(error: Tensor) -> float:
        return float(error.square().mean().sqrt())

    amplified = rms(out * torch.ones_like(x))
    return Gap(rms(ideal - D_t), rms(ideal - D_s), rms(jump - end), amplified, rms(end))
