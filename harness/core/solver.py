"""Solvers of the teacher's probability-flow ODE dx/dt = (x - D(x, t))/t."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Solver = Callable[[Denoise, Tensor, Tensor], Tensor]


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Cast [B] (or a scalar) to the dtype of `like` and shape it [B, 1, ...] to scale samples."""
    value = value.to(like.dtype)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (like.ndim - 1))


def heun(denoise: Denoise, x: Tensor, times: Tensor) -> Tensor:
    """Heun's second-order method from times[0] to times[-1], two evaluations per step.

    Args:
        denoise: D(x, t) with t scalar or [B].
        x: [B, *shape] at times[0].
        times: float64 [K + 1] shared, or [K + 1, B] per sample, decreasing.
    """
    for a, b in itertools.pairwise(times):
        width = per_sample(b - a, x)
        slope = (x - denoise(x, a)) / per_sample(a, x)
        ahead = x + width * slope
        slope_ahead = (ahead - denoise(ahead, b)) / per_sample(b, x)
        x = x + width * (slope + slope_ahead) / 2
    return x


def unipc(denoise: Denoise, x: Tensor, times: Tensor) -> Tensor:
    """UniPC of order 2 (Zhao et al. 2023, B_2, data prediction), one evaluation per step.

    In lambda = -log t the ODE is dx/dlambda = D - x, linear in x, so that over a step of width h

        x_b = e^-h x_a + int_0^h e^-(h-v) D(v) dv,        e^-h = b / a,

    exactly. The predictor extrapolates D from the two nodes before it; D at the predicted point
    corrects that step, by the parabola through three nodes, and serves the next one. The first step
    predicts with D held fixed (DDIM) and the last one is not corrected. Arguments as in `heun`.
    """
    width = (times[:-1] / times[1:]).log()  # [K] or [K, B]
    here, before = denoise(x, times[0]), x
    for k, h in enumerate(width):
        gain = -torch.expm1(-h)  # int e^-(h-v) dv
        held = x + per_sample(gain, x) * (here - x)
        ahead = held
        if k > 0:
            ahead = held + per_sample(gain * h / (2 * width[k - 1]), x) * (here - before)
        if k + 1 == len(width):
            return ahead
        found = denoise(ahead, times[k + 1])
        if k == 0:
            x = held + per_sample(gain / 2, x) * (found - here)
        else:
            past, ahead_weight = _parabola(gain, h, h / width[k - 1])
            x = held + per_sample(past, x) * (here - before)
            x = x + per_sample(ahead_weight, x) * (found - here)
        before, here = here, found
    return x


def _parabola(gain: Tensor, h: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of (D_0 - D_-1) and (D_1 - D_0) in int_0^h e^-(h-v) (P(v) - D_0) dv.

    P is the parabola through (-h / ratio, D_-1), (0, D_0) and (h, D_1).
    """
    first = 1 - gain / h  # int e^-(h-v) (v/h) dv
    second = 1 - 2 * first / h  # int e^-(h-v) (v/h)^2 dv
    curved = (second - first) * ratio / (1 + ratio)
    return -curved * ratio, first + curved


#: what an objective's parameter `solver` may name
SOLVERS: dict[str, Solver] = {"heun": heun, "unipc": unipc}


def solve(denoise: Denoise, x: Tensor, times: Tensor, substeps: int = 16) -> Tensor:
    """Heun solution at times[-1] with `substeps` geometric steps per interval of `times` [K + 1].

    Computed in float64 and used as the exact ODE solution in diagnostics and trajectory alignment;
    on the 8-mode ring its error is far below that of any student.
    """
    x = x.double()
    fraction = torch.linspace(0, 1, substeps + 1, dtype=torch.float64, device=times.device)
    for a, b in itertools.pairwise(times):
        inner = torch.exp(a.log() + fraction * (b.log() - a.log()))
        x = heun(denoise, x, inner)
    return x
