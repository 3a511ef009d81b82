"""The coefficients and calibration curves of a preconditioning, stored with a run for reports."""

from __future__ import annotations

import math
from typing import Any

import torch

from harness.api import Preconditioning
from harness.core.schedule import karras

NODES = 12


def fingerprint(precond: Preconditioning) -> dict[str, Any]:
    """Coefficients on all pairs t > s of a 12-node Karras grid, as lists for JSON.

    `skip`, `out`, `shift` (times the root mean square of the offset), and `told`, the conditioning
    sigma. Preconditionings for which these agree are the same function (marked by
    harness/report/frame.py). With a basis they are means over coordinates, and `bands` holds the
    number of coordinates, skip and out of each band. `curves`: see `Preconditioning.shown`.
    """
    device = next((value.device for value in precond.artifact.values()), None)
    nodes = karras(NODES, precond.sigma_min, precond.sigma_max).to(device)
    i, j = torch.triu_indices(NODES, NODES, offset=1)
    given = precond.coeffs(nodes[i], nodes[j])
    offset, basis = precond.offset, precond.basis
    skip, out, shift = given if basis is None else basis.mean(given)
    size = 0.0 if offset is None else float(offset.double().norm()) / math.sqrt(offset.numel())
    found = {
        "t": nodes[i].tolist(),
        "s": nodes[j].tolist(),
        "skip": skip.tolist(),
        "out": out.tolist(),
        "shift": [0.0] * len(i) if shift is None else (shift * size).tolist(),
        "told": precond.conditioning_sigma(nodes[i], nodes[j]).tolist(),
    }
    if basis is not None:
        own = basis.sizes.tolist(), given.skip.mT.tolist(), given.out.mT.tolist()
        found["bands"] = [
            {"coordinates": size, "skip": skips, "out": outs}
            for size, skips, outs in zip(*own, strict=True)
        ]
    curves = {name: _plain(value.double().cpu()) for name, value in precond.shown().items()}
    return found | {"curves": curves} if curves else found


def _plain(values: torch.Tensor) -> list[float | None]:
    """A curve as a list for JSON, with None for values that are not finite and are not drawn."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
