"""l, log L, log S and eta as functions of lambda = -log t, from values at measured noise levels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_REFINE = 8  # sub-intervals per measured interval
_GAUSS_NODES = (-0.7745966692414834, 0.0, 0.7745966692414834)
_GAUSS_WEIGHTS = (5 / 9, 8 / 9, 5 / 9)


class Point(NamedTuple):
    """The curves at some noise levels; `cell` is the sub-interval that holds each of them."""

    lam: Tensor
    cell: Tensor
    l: Tensor
    log_L: Tensor
    log_S: Tensor


class Curves:
    """The curves of Analytic-Precond and their integrals, float64.

    l and log S are refined by a monotone cubic (no overshoot, so that l stays in [0, 1]) and are
    then linear in each sub-interval; log L is the exact integral of that l, so that
    d log L/dlambda = l everywhere and the preconditioning is exactly tangent. eta = int exp(log L -
    log S) by three-point Gauss quadrature, tabulated at the ends of sub-intervals. Outside the
    measured range l and S keep their end values.
    """

    def __init__(self, sigma: Tensor, l: Tensor, log_S: Tensor) -> None:
        from scipy.interpolate import PchipInterpolator

        lam = -sigma.double().log().cpu()
        steps = torch.arange(_REFINE) / _REFINE
        fine = (lam[:-1, None] + (lam[1:] - lam[:-1])[:, None] * steps).flatten()
        fine = torch.cat([fine, lam[-1:]])
        refined_l, refined_S = (
            torch.from_numpy(PchipInterpolator(lam.numpy(), value.double().cpu().numpy())(fine))
            for value in (l, log_S)
        )
        margin = 3.0  # in lambda: a factor 20 in t on both sides
        ends = (fine[:1] - margin, fine[-1:] + margin)
        self.lam = torch.cat([ends[0], fine, ends[1]]).to(sigma.device)
        self.l = torch.cat([refined_l[:1], refined_l, refined_l[-1:]]).to(sigma.device)
        self.log_S = torch.cat([refined_S[:1], refined_S, refined_S[-1:]]).to(sigma.device)
        width = self.lam.diff()
        zero = self.lam.new_zeros(1)
        mean_l = (self.l[1:] + self.l[:-1]) / 2
        self.log_L = torch.cat([zero, (mean_l * width).cumsum(0)])
        self.log_L -= self.log_L[len(self.lam) // 2].clone()
        cell = torch.arange(len(self.lam) - 1, device=self.lam.device)
        self.eta = torch.cat([zero, self._integral(cell, self.lam[:-1], self.lam[1:]).cumsum(0)])

    def at(self, t: Tensor) -> Point:
        """Interpolate the curves at noise levels t."""
        lam = -t.log()
        inside = lam.detach().clamp(self.lam[0], self.lam[-1])
        cell = torch.searchsorted(self.lam, inside.contiguous(), right=True) - 1
        cell = cell.clamp(0, len(self.lam) - 2)
        return Point(lam, cell, *self._within(cell, lam))

    def eta_between(self, t: Point, s: Point) -> Tensor:
        """eta_s - eta_t, exactly 0 where t == s and without cancellation where they are close."""
        same = self._integral(t.cell, t.lam, s.lam)
        across = (
            (self.eta[s.cell] - self.eta[t.cell])
            + self._integral(s.cell, self.lam[s.cell], s.lam)
            - self._integral(t.cell, self.lam[t.cell], t.lam)
        )
        return torch.where(t.cell == s.cell, same, across)

    def step(
        self, t: Point, s: Point, *, S: Point, l: Point, implicit: bool
    ) -> tuple[Tensor, Tensor]:
        """(alpha, beta) of one Euler step from t to s, with S and l taken at the given points.

        `implicit`: x in g is taken at s; the backward form if S and l are taken there too.
        """
        decay = (t.log_L - s.log_L).exp()
        c = self.eta_between(t, s) * (S.log_S - s.log_L).exp()
        linear = c * (1 - l.l)
        if implicit:
            return c / (1 + linear), decay / (1 + linear)
        return c, decay - linear

    def _within(self, cell: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(l, log L, log S) at lam inside a sub-interval: linear, its integral, linear."""
        width = self.lam[cell + 1] - self.lam[cell]
        delta = lam - self.lam[cell]
        slope_l = (self.l[cell + 1] - self.l[cell]) / width
        slope_S = (self.log_S[cell + 1] - self.log_S[cell]) / width
        return (
            self.l[cell] + slope_l * delta,
            self.log_L[cell] + self.l[cell] * delta + slope_l * delta**2 / 2,
            self.log_S[cell] + slope_S * delta,
        )

    def _integral(self, cell: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """int exp(log L - log S) dlambda inside one sub-interval."""
        middle, half = (start + stop) / 2, (stop - start) / 2
        total = torch.zeros_like(half)
        for node, weight in zip(_GAUSS_NODES, _GAUSS_WEIGHTS, strict=True):
            _, log_L, log_S = self._within(cell, middle + half * node)
            total = total + weight * (log_L - log_S).exp()
        return half * total
