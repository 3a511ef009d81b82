"""Few-step sampling with a student: NFE = n means n network calls, from sigma_max to sigma_min.

Each sampler is a generator of the states [B, *shape] that a sample passes through, one for every
level of `times` [n + 1] after the first, so that the last one is the sample. `fresh(k)` gives the
standard normal noise that is scaled and added after jump k. tests/unit/test_sampling.py compares
the samplers with the published implementations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from harness.core.protocols import NoiseRange, StudentLike
from harness.core.random import integers, normal
from harness.core.sampler import Sampler
from harness.core.schedule import karras

Fresh = Callable[[int], Tensor]


def initial_noise(
    seed: int, indices: Tensor, shape: tuple[int, ...], sigma_max: float, dtype: torch.dtype
) -> Tensor:
    """x [B, *shape] at sigma_max for sample indices [B]; the same for every student and NFE."""
    return sigma_max * normal(seed, "evaluation noise", 0, indices, shape, dtype)


def fresh_noise(
    seed: int, indices: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Fresh:
    """Noise of stochastic samplers, k -> [B, *shape], determined by (seed, k, sample index)."""
    return lambda jump: normal(seed, "sampler noise", jump, indices, shape, dtype)


def evaluation_labels(seed: int, indices: Tensor, classes: int) -> Tensor | None:
    """One-hot classes [B, classes] for sample indices, drawn uniformly; None without classes."""
    if not classes:
        return None
    drawn = integers(seed, "evaluation labels", 0, indices, 0, classes - 1)
    return torch.nn.functional.one_hot(drawn, classes).float()


def exact(
    student: StudentLike, x: Tensor, times: Tensor, labels: Tensor | None = None
) -> Iterator[Tensor]:
    """Jump from level to level without fresh noise or clipping: CTM's sampler with gamma = 0."""
    for t, s in pairwise(times.tolist()):
        x = _jump(student, x, t, s, labels)
        yield x


def gamma(
    student: StudentLike,
    x: Tensor,
    times: Tensor,
    fresh: Fresh,
    gamma: float,
    labels: Tensor | None = None,
) -> Iterator[Tensor]:
    """CTM's stochastic sampler: jump below the next level, add noise up to it.

    The jump from t_k ends at s = sigma_min + sqrt(1 - gamma^2) (t_{k+1} - sigma_min), noise of
    standard deviation sqrt(t_{k+1}^2 - s^2) brings it to t_{k+1}; no noise follows the last jump.
    This is the formula of the reference code (sony/ctm); the paper has s = sqrt(1 - gamma^2)
    t_{k+1}.
    """
    low, below = float(times[-1]), math.sqrt(1 - gamma**2)
    for k, (t, u) in enumerate(pairwise(times.tolist())):
        s = low + below * (u - low)
        x = _raised(_jump(student, x, t, s, labels), s, u, fresh, k)
        yield x


def stochastic(
    student: StudentLike,
    x: Tensor,
    times: Tensor,
    fresh: Fresh,
    labels: Tensor | None = None,
    clip: bool = True,
) -> Iterator[Tensor]:
    """Multi-step sampling of consistency models: jump to sigma_min, then add noise up to t_{k+1}.

    With `clip` the result of each jump, the last included, is clipped to [-1, 1] before noise is
    added, as in openai/consistency_models.
    """
    low = float(times[-1])
    for k, (t, u) in enumerate(pairwise(times.tolist())):
        clean = _jump(student, x, t, low, labels)
        x = _raised(clean.clamp(-1, 1) if clip else clean, low, u, fresh, k)
        yield x


def nodes(sampler: Sampler, nfe: int, spec: NoiseRange, trained: Tensor | None = None) -> Tensor:
    """Noise levels of a sampler with n = `nfe` steps, float64 [n + 1], from sigma_max to sigma_min.

    `trained` is the objective's training grid (`Objective.trained_times`) of N levels, of which
    those of index round((N - 1) k / n), k = 0..n, are used by `@trained`.

    Raises:
        ValueError: `@trained` without a training grid, or with more steps than the grid has.
    """
    if isinstance(sampler.times, tuple):
        levels = [spec.sigma_max, *sampler.times[1:], spec.sigma_min]
        return torch.tensor(levels, dtype=torch.float64)
    if sampler.times == "karras":
        return karras(nfe + 1, spec.sigma_min, spec.sigma_max)
    if trained is None:
        raise ValueError(
            f"sampler {sampler.text!r}: the objective trains at continuous times and has no grid;"
            " use karras times or a list"
        )
    last = len(trained) - 1
    if nfe > last:
        raise ValueError(
            f"sampler {sampler.text!r}: {nfe} steps need {nfe + 1} levels, and the objective"
            f" trains on {last + 1}; ask for at most {last} steps"
        )
    return trained[[round(last * k / nfe) for k in range(nfe + 1)]]


@dataclass(frozen=True)
class Walk:
    """A sampler with its noise levels [nfe + 1]; `images` enables clipping to [-1, 1]."""

    sampler: Sampler
    times: Tensor
    images: bool

    @classmethod
    def of(cls, text: str, nfe: int, spec: NoiseRange, trained: Tensor | None = None) -> Walk:
        """Build it from a sampler's name, the number of steps and a noise range; see `nodes`."""
        sampler = Sampler.read(text)
        return cls(sampler, nodes(sampler, nfe, spec, trained), len(spec.shape) == 3)

    def states(
        self, student: StudentLike, x: Tensor, fresh: Fresh, labels: Tensor | None = None
    ) -> Iterator[Tensor]:
        """The states at every level after the first, from x [B, *shape] at sigma_max."""
        sampler = self.sampler
        if sampler.kind == "exact":
            return exact(student, x, self.times, labels)
        if sampler.gamma is not None:
            return gamma(student, x, self.times, fresh, sampler.gamma, labels)
        return stochastic(student, x, self.times, fresh, labels, sampler.clip and self.images)

    def end(
        self, student: StudentLike, x: Tensor, fresh: Fresh, labels: Tensor | None = None
    ) -> Tensor:
        """The samples [B, *shape] at sigma_min, computed under `no_grad`."""
        with torch.no_grad():
            for state in self.states(student, x, fresh, labels):
                x = state
        return x


def _jump(student: StudentLike, x: Tensor, t: float, s: float, labels: Tensor | None) -> Tensor:
    """f(x, t, s) with one pair of levels for the whole batch."""
    levels = (torch.full((len(x),), at, dtype=torch.float64, device=x.device) for at in (t, s))
    return student.jump(x, *levels, labels)


def _raised(x: Tensor, low: float, high: float, fresh: Fresh, jump: int) -> Tensor:
    """Add noise to x at level `low` to reach level `high`; unchanged if the levels are equal."""
    return x + math.sqrt(high**2 - low**2) * fresh(jump) if high > low else x
