"""What a report needs to know of a strategy: which ones are equal, and what was measured."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.api import Preconditioning
from harness.core.schedule import karras

NODES = 12


def fingerprint(precond: Preconditioning) -> dict[str, Any]:
    """skip, out and shift on all pairs t > s of a 12-node Karras grid, as plain lists.

    Two strategies are the same function if these agree (harness/report/frame.py marks them).
    `curves` holds what a calibration measured at each of its noise levels `sigma`, for plots.
    """
    device = next((value.device for value in precond.artifact.values()), None)
    nodes = karras(NODES, precond.sigma_min, precond.sigma_max).to(device)
    i, j = torch.triu_indices(NODES, NODES, offset=1)
    skip, out, shift = precond.coeffs(nodes[i], nodes[j])
    offset = precond.offset
    size = 0.0 if offset is None else float(offset.double().norm()) / math.sqrt(offset.numel())
    found = {
        "t": nodes[i].tolist(),
        "s": nodes[j].tolist(),
        "skip": skip.tolist(),
        "out": out.tolist(),
        "shift": [0.0] * len(i) if shift is None else (shift * size).tolist(),
    }
    curves = _curves(precond)
    return found | {"curves": curves} if curves else found


def _curves(precond: Preconditioning) -> dict[str, list[float]]:
    """Every array of the calibration that has one value for each level of its `sigma`."""
    sigma = precond.artifact.get("sigma")
    if sigma is None or sigma.ndim != 1:
        return {}
    per_level = {
        name: value for name, value in precond.artifact.items() if value.shape == sigma.shape
    }
    return {name: value.double().cpu().tolist() for name, value in per_level.items()}
