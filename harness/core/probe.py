"""What a calibration sees: clean data, noise levels, and a teacher that counts its evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harness.core.group import Group
from harness.core.progress import tell
from harness.core.protocols import CleanData, Denoiser
from harness.core.random import normal, words
from harness.core.schedule import uniform_lambda

#: coordinates in a batch: on a CPU what stays in the cache (a U-Net is 1.3 times as fast as with
#: ten times as many), on an accelerator what fills it
COORDINATES = {"cpu": 2**14}
MANY_COORDINATES = 2**20
SMALLEST, LARGEST = 32, 1024
#: at least so many batches, of nearly equal size: 1, 2, 3, 4, 6 or 12 processes divide them evenly
SHARES = 12
#: partial sums that are added up at the end: bounds what is kept, whatever the number of samples
PARTS = 64
#: step of a difference quotient in units of lambda = -log t: what float32 and float64 both bear
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


class Probe:
    """Streams the same (x_0, eps) past every noise level, and divides the work over processes.

    Common random numbers make the curves smooth in t; antithetic pairs (each x_0 is seen with eps
    and with -eps) remove the noise of x_0 from Stein's estimator, which would swamp it at high
    noise. One batch is held at a time: memory grows neither with `samples` nor with `levels`.

    Attributes:
        sigma: noise levels, uniform in -log sigma, noisiest first, float64.
        evaluations: teacher evaluations of one sample so far, by all processes.
    """

    def __init__(
        self,
        teacher: Denoiser,
        dataset: CleanData,
        *,
        levels: int = 120,
        samples: int = 4096,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        group: Group | None = None,
    ) -> None:
        if levels < 4 or samples < 4:
            raise ValueError(f"calibration needs 4 levels and 4 samples or more: {levels, samples}")
        self.teacher = teacher
        self.dataset = dataset
        self.sigma = uniform_lambda(levels, sigma_min, sigma_max)
        self.samples = samples - samples % 2
        self.seed = seed
        self.device = torch.device(device)
        most = COORDINATES.get(self.device.type, MANY_COORDINATES) // math.prod(self.shape)
        batches = max(SHARES, -(-samples // max(SMALLEST, min(LARGEST, most))))
        self.batch = 2 * -(-samples // (2 * batches))
        self.group = group or Group()
        self.evaluations = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.teacher.spec.shape

    def add_up(self, measure: Callable[[Draw], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Sum `measure(draw)` over all samples; each process of the group takes its share.

        Every process must call it, and gets the same: the same batches are added in the same order
        however many processes there are, to the last bit.
        """
        starts = range(0, self.samples // 2, self.batch // 2)
        parts = min(len(starts), PARTS)
        before = self.evaluations
        mine, seen = [], 0
        for part in range(self.group.rank, parts, self.group.size):
            total: dict[str, Tensor] = {}
            for start in starts[part::parts]:
                for name, value in measure(self._draw(start)).items():
                    total[name] = total[name] + value if name in total else value
                seen += 1
                tell("calibrating", self.group.size * seen, len(starts))
            mine.append((part, {name: value.cpu() for name, value in total.items()}))
        shares = self.group.gather([(mine, self.evaluations - before)])
        self.evaluations = before + sum(count for _, count in shares)
        found = dict(item for share, _ in shares for item in share)
        return {
            name: torch.stack([found[part][name] for part in range(parts)]).sum(0)
            for name in found[0]
        }

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The teacher's D(x, t), float64 [B, *shape].

        A network computes in its own precision; what surrounds it (c_skip x) is float64, as x is.
        """
        self.evaluations += len(x)
        return self.teacher.denoise(x, t, labels).double()

    def slope(
        self, x: Tensor, t: Tensor, dx: Tensor, dlam: float, labels: Tensor | None = None
    ) -> Tensor:
        """Derivative of D(x, t) along (dx, dlambda), lambda = -log t: a Jacobian-vector product.

        A central difference: two evaluations and no more time than that, where forward-mode
        differentiation of a U-Net takes that of four; its error is 1e-4 of the value.
        """
        ahead, behind = (
            self.denoise(x + h * dx, t * math.exp(-h * dlam), labels) for h in (STEP, -STEP)
        )
        return (ahead - behind) / (2 * STEP)

    def _draw(self, start: int) -> Draw:
        stop = min(start + self.batch // 2, self.samples // 2)
        numbers = torch.arange(start, stop, device=self.device)
        x0, labels = self.dataset.draw(self.seed, "calibration", numbers)
        x0 = x0.to(self.device).double()
        eps = normal(self.seed, "calibration noise", 0, numbers, self.shape, torch.float64)
        if labels is not None:
            labels = labels.to(self.device).repeat(2, 1)
        drawn = words(self.seed, "calibration signs", 0, numbers, math.prod(self.shape))
        signs = (drawn % 2 * 2 - 1).double().reshape(len(numbers), *self.shape)
        return Draw(torch.cat([x0, x0]), torch.cat([eps, -eps]), torch.cat([signs, signs]), labels)
