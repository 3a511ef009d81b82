"""`Probe`: the data, noise levels and teacher of a calibration, with a count of evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.core.group import Group
from harness.core.progress import tell
from harness.core.protocols import CleanData, Denoiser, Parts
from harness.core.random import normal, words
from harness.core.schedule import uniform_lambda

#: coordinates in a batch: few enough for the cache of a CPU (a U-Net is 1.3 times as fast as with
#: ten times as many), enough to fill an accelerator
COORDINATES = {"cpu": 2**14}
MANY_COORDINATES = 2**20
SMALLEST, LARGEST = 32, 1024
#: at least so many batches, of nearly equal size: 1, 2, 3, 4, 6 or 12 processes divide them evenly
SHARES = 12
#: number of partial sums that are added at the end: bounds memory for any number of samples
PARTS = 64
#: with a tolerance, rounds of samples double the total until the standard error is small enough;
#: it is estimated from the scatter of equal groups of samples
FIRST_ROUND, GROUPS = 256, 8
#: name, beside kept sums, of the number of evaluations that they took
EVALUATIONS = ":evaluations"
#: step of difference quotients in lambda = -log t, a compromise for float32 and float64
STEP = 5e-3


class Draw(NamedTuple):
    """A batch of clean samples and noise, float64 [B, *shape], with one-hot labels or None.

    The second half repeats the first with -eps; `signs` are random, +1 or -1 by coordinate, the
    same in both halves and independent of the rest.
    """

    x0: Tensor
    eps: Tensor
    signs: Tensor
    labels: Tensor | None


def standard_error(
    groups: list[dict[str, Tensor]], known: Callable[[dict[str, Tensor]], Tensor]
) -> float:
    """Jackknife over groups: the largest standard error of an entry of `known(sum of all groups)`.

    Infinite with fewer than three groups, or sums that are not finite.
    """
    count = len(groups)
    finite = all(bool(value.isfinite().all()) for sums in groups for value in sums.values())
    if count < 3 or not finite:
        return math.inf
    without = torch.stack([known(_total(groups[:k] + groups[k + 1 :])) for k in range(count)])
    return float((without.var(0, unbiased=False) * (count - 1)).sqrt().max())


def _spans(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Split [start, stop) into spans of `size`; the last may be shorter."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]


def _total(sums: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in sums]).sum(0) for name in sums[0]}


class Probe:
    """Streams the same (x_0, eps) through every noise level, and divides the work over processes.

    Common random numbers make the curves smooth in t; antithetic pairs (each x_0 is seen with eps
    and with -eps) remove the noise of x_0 from Stein's estimator, which would swamp it at high
    noise. One batch is held at a time: memory grows neither with `samples` nor with `levels`.

    Attributes:
        sigma: noise levels, uniform in -log sigma, noisiest first, float64.
        samples: number of samples, or the largest number if there is a `tolerance`.
        tolerance: standard error at which sampling stops; None: use all samples.
        error: standard error that was reached; None without a tolerance.
        evaluations: number of teacher evaluations (one sample each) so far, over all processes,
            those of kept parts included.
        parts: where sums over part of the samples are kept while it works; None: nowhere.
        passes: number of calls of `add_up` so far.
    """

    def __init__(
        self,
        teacher: Denoiser,
        dataset: CleanData,
        *,
        levels: int = 120,
        samples: int = 4096,
        tolerance: float | None = None,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        group: Group | None = None,
        parts: Parts | None = None,
    ) -> None:
        if levels < 4 or samples < 4:
            raise ValueError(f"calibration needs 4 levels and 4 samples or more: {levels, samples}")
        self.teacher = teacher
        self.dataset = dataset
        self.sigma = uniform_lambda(levels, sigma_min, sigma_max)
        self.samples = samples - samples % 2
        self.tolerance = tolerance
        self.seed = seed
        self.device = torch.device(device)
        most = COORDINATES.get(self.device.type, MANY_COORDINATES) // math.prod(self.shape)
        batches = max(SHARES, -(-samples // max(SMALLEST, min(LARGEST, most))))
        self.batch = 2 * -(-samples // (2 * batches))
        self.group = group or Group()
        self.parts = parts
        self.passes = 0
        self.error: float | None = None
        self.evaluations = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.teacher.spec.shape

    def add_up(
        self,
        measure: Callable[[Draw], dict[str, Tensor]],
        known: Callable[[dict[str, Tensor]], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Sum `measure(draw)` over all samples; each process of the group takes its share.

        Collective: every process must call it. Batches are added in the same order for any number
        of processes, so that the result is bitwise the same. The result has one key more,
        `samples`: the number of samples in the sums.

        Args:
            known: function of the sums whose standard errors must fall below `tolerance`; if both
                are given, summation ends after the first round in which all do.
        """
        pairs, half = self.samples // 2, self.batch // 2
        self.passes += 1
        if known is None or self.tolerance is None:
            spans = _spans(0, pairs, half)
            parts = min(len(spans), PARTS)
            return _total(self._shared(measure, [spans[part::parts] for part in range(parts)]))
        groups: list[list[dict[str, Tensor]]] = [[] for _ in range(GROUPS)]
        end = 0
        while end < pairs:
            start, end = end, min(pairs, max(FIRST_ROUND // 2, 2 * end))
            shares = [
                _spans(first, last, half)
                for first, last in _spans(start, end, -(-(end - start) // GROUPS))
            ]
            for group, sums in zip(groups, self._shared(measure, shares), strict=False):
                group.append(sums)
            self.error = standard_error([_total(group) for group in groups if group], known)
            if self.error <= self.tolerance:
                break
        return _total([sums for group in groups for sums in group])

    def _shared(
        self, measure: Callable[[Draw], dict[str, Tensor]], shares: list[list[tuple[int, int]]]
    ) -> list[dict[str, Tensor]]:
        """Sums over the spans of each share; processes divide the shares and exchange the sums."""
        before = self.evaluations
        batches = sum(map(len, shares))
        mine, seen = [], 0
        for part in range(self.group.rank, len(shares), self.group.size):
            total = self._kept(shares[part]) or self._sum(measure, shares[part], seen, batches)
            seen += len(shares[part])
            mine.append((part, total))
        told = self.group.gather([(mine, self.evaluations - before)])
        self.evaluations = before + sum(count for _, count in told)
        found = dict(item for share, _ in told for item in share)
        return [found[part] for part in range(len(shares))]

    def _sum(
        self,
        measure: Callable[[Draw], dict[str, Tensor]],
        spans: list[tuple[int, int]],
        seen: int,
        batches: int,
    ) -> dict[str, Tensor]:
        """Sums over some spans, on the CPU; `seen` of all `batches` were summed here before."""
        started, before = time.perf_counter(), self.evaluations
        total: dict[str, Tensor] = {}
        for done, span in enumerate(spans, 1):
            draw = self._draw(*span)
            counted = torch.tensor(len(draw.x0), dtype=torch.float64)
            for name, value in {**measure(draw), "samples": counted}.items():
                total[name] = total[name] + value if name in total else value
            tell("calibrating", self.group.size * (seen + done), batches)
        total = {name: value.cpu() for name, value in total.items()}
        if self.parts is not None:
            spent = {EVALUATIONS: np.array(self.evaluations - before)}
            self.parts.write(self._name(spans), total | spent, time.perf_counter() - started)
        return total

    def _kept(self, spans: list[tuple[int, int]]) -> dict[str, Tensor] | None:
        """Sums over some spans, if an interrupted calibration kept them."""
        arrays = None if self.parts is None else self.parts.read(self._name(spans))
        if arrays is None:
            return None
        self.evaluations += int(arrays.pop(EVALUATIONS))
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def _name(self, spans: list[tuple[int, int]]) -> str:
        """What tells the sums over some spans from all other sums of this calibration."""
        first, last = spans[0][0], spans[-1][1]
        return f"{self.passes}-{first}-{last}-{self.batch}-{self.device.type}"

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The teacher's D(x, t), float64 [B, *shape].

        A network computes F in its own precision; c_skip x + c_out F is float64, as x is.
        """
        self.evaluations += len(x)
        return self.teacher.denoise(x, t, labels).double()

    def slope(
        self, x: Tensor, t: Tensor, dx: Tensor, dlam: float, labels: Tensor | None = None
    ) -> Tensor:
        """Derivative of D(x, t) along (dx, dlambda), lambda = -log t: a Jacobian-vector product.

        A central difference with a relative error of 1e-4. It costs two evaluations, where
        forward-mode differentiation of a U-Net takes the time of four.
        """
        ahead, behind = (
            self.denoise(x + h * dx, t * math.exp(-h * dlam), labels) for h in (STEP, -STEP)
        )
        return (ahead - behind) / (2 * STEP)

    def _draw(self, start: int, stop: int) -> Draw:
        numbers = torch.arange(start, stop, device=self.device)
        x0, labels = self.dataset.draw(self.seed, "calibration", numbers)
        x0 = x0.to(self.device).double()
        eps = normal(self.seed, "calibration noise", 0, numbers, self.shape, torch.float64)
        if labels is not None:
            labels = labels.to(self.device).repeat(2, 1)
        drawn = words(self.seed, "calibration signs", 0, numbers, math.prod(self.shape))
        signs = (drawn % 2 * 2 - 1).double().reshape(len(numbers), *self.shape)
        return Draw(torch.cat([x0, x0]), torch.cat([eps, -eps]), torch.cat([signs, signs]), labels)
