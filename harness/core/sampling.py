"""Few-step sampling with a student: NFE = n means n jumps along n + 1 Karras nodes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.core.random import integers, normal
from harness.core.schedule import karras

if TYPE_CHECKING:
    from harness.api import StudentLike


def initial_noise(
    seed: int, indices: Tensor, shape: tuple[int, ...], sigma_max: float, dtype: torch.dtype
) -> Tensor:
    """x at sigma_max for sample indices [B]: the same for every strategy, NFE and batch size."""
    return sigma_max * normal(seed, "evaluation noise", 0, indices, shape, dtype)


def evaluation_labels(seed: int, indices: Tensor, classes: int) -> Tensor | None:
    """One-hot classes [B, classes] for sample indices, drawn uniformly; None without classes."""
    if not classes:
        return None
    drawn = integers(seed, "evaluation labels", 0, indices, 0, classes - 1)
    return torch.nn.functional.one_hot(drawn, classes).float()


def sample(
    student: StudentLike,
    x: Tensor,
    nfe: int,
    sigma_min: float,
    sigma_max: float,
    labels: Tensor | None = None,
) -> Tensor:
    """Walk x [B, *shape] from sigma_max to sigma_min in `nfe` deterministic jumps, no grad.

    This is CTM's "exact" sampler (gamma = 0): no fresh noise, no step to zero, no clipping.
    """
    with torch.no_grad():
        nodes = karras(nfe + 1, sigma_min, sigma_max).to(x.device)
        for t, s in itertools.pairwise(nodes):
            x = student.jump(x, t.expand(len(x)), s.expand(len(x)), labels)
    return x
