"""Distances between jumps, of each sample or on average over the batch."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

DistanceName = Literal["l2", "l1", "pseudo-huber"]


def distances(name: DistanceName, a: Tensor, b: Tensor) -> Tensor:
    """Distance of each pair of samples of a and b, [B, *shape], in float32 or better; [B].

    l2, l1: mean over coordinates of the squared, of the absolute difference (CM's l2 and l1).
    pseudo-huber: sqrt(||a - b||^2 + c^2) - c with c = 0.00054 sqrt(d)
    (Song & Dhariwal 2023, "Improved techniques for training consistency models").
    """
    difference = (a.float() - b.float()).flatten(1)
    if name == "l2":
        return difference.square().mean(1)
    if name == "l1":
        return difference.abs().mean(1)
    c = 0.00054 * math.sqrt(difference.shape[1])
    return (difference.square().sum(1) + c * c).sqrt() - c


def distance(name: DistanceName, a: Tensor, b: Tensor) -> Tensor:
    """The mean of `distances` over the batch, a scalar."""
    if name == "l2":  # in one sum, as published runs were trained
        return (a.float() - b.float()).flatten(1).square().mean()
    return distances(name, a, b).mean()
