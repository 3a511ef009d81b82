"""Few-step sampling with a student: NFE = n means n network calls, from sigma_max to sigma_min.

Each sampler is a generator of the states [B, *shape] that a sample passes through, one for every
level of `times` [n + 1] after the first, so that the last one is the sample. `fresh(k)` gives the
noise, standard normal, that is added after jump k. Reference numbers of the published samplers:
tests/unit/test_sampling.py.
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
    """x at sigma_max for sample indices [B]: the same for every strategy, NFE and batch size."""
    return sigma_max * normal(seed, "evaluation noise", 0, indices, shape, dtype)


def fresh_noise(
    seed: int, indices: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Fresh:
    """The noise of stochastic samplers: a function of (seed, jump, sample index) alone."""
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
    """From level to level without fresh noise or clipping: CTM's sampler with gamma = 0."""
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
    standard deviation sqrt(t_{k+1}^2 - s^2) brings it to t_{k+1}; the last jump adds none. So the
    reference computes it (sony/ctm), where the paper writes sqrt(1 - gamma^2) t_{k+1}.
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
    """Multi-step sampling of consistency models: to sigma_min each time, then up to t_{k+1}.

    With `clip` what a jump gives is clipped to [-1, 1] before noise is added, as in
    openai/consistency_models; the last jump's too.
    """
    low = float(times[-1])
    for k, (t, u) in enumerate(pairwise(times.tolist())):
        clean = _jump(student, x, t, low, labels)
        x = _raised(clean.clamp(-1, 1) if clip else clean, low, u, fresh, k)
        yield x


def nodes(sampler: Sampler, nfe: int, spec: NoiseRange, trained: Tensor | None = None) -> Tensor:
    """The levels that a sampler passes in `nfe` steps, [nfe + 1] float64, down to sigma_min.

    `trained` is the objective's own grid (`Objective.trained_times`), N levels: of these n + 1 are
    taken, index round((N - 1) k / n).

    Raises:
        ValueError: `trained` times of an objective without a grid, or of more steps than it has.
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
    """One way of sampling in `nfe` steps: the sampler, its levels, whether samples are images."""

    sampler: Sampler
    times: Tensor
    images: bool

    @classmethod
    def of(cls, text: str, nfe: int, spec: NoiseRange, trained: Tensor | None = None) -> Walk:
        """The walk of the sampler of that name over a noise range; see `nodes`."""
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
        """The samples [B, *shape], made without a graph."""
        with torch.no_grad():
            for state in self.states(student, x, fresh, labels):
                x = state
        return x


def _jump(student: StudentLike, x: Tensor, t: float, s: float, labels: Tensor | None) -> Tensor:
    """f(x, t, s) with one pair of levels for the whole batch."""
    levels = (torch.full((len(x),), at, dtype=torch.float64, device=x.device) for at in (t, s))
    return student.jump(x, *levels, labels)


def _raised(x: Tensor, low: float, high: float, fresh: Fresh, jump: int) -> Tensor:
    """x of level `low` with noise up to level `high`; as it is where they are equal."""
    return x + math.sqrt(high**2 - low**2) * fresh(jump) if high > low else x
