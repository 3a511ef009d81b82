"""Distances between jumps: mean over the batch of a per-sample distance."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

DistanceName = Literal["l2", "pseudo-huber"]


def distance(name: DistanceName, a: Tensor, b: Tensor) -> Tensor:
    """Distance of a and b, [B, *shape], computed in float32 or better; a scalar.

    l2: mean of the squared difference over coordinates (CM's l2).
    pseudo-huber: sqrt(||a - b||^2 + c^2) - c with c = 0.00054 sqrt(d)
    (Song & Dhariwal 2023, "Improved techniques for training consistency models").
    """
    difference = (a.float() - b.float()).flatten(1)
    if name == "l2":
        return difference.square().mean()
    c = 0.00054 * math.sqrt(difference.shape[1])
    return ((difference.square().sum(1) + c * c).sqrt() - c).mean()
