"""What a calibration sees: clean data, noise levels, and a teacher that counts its evaluations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.core.random import normal, words
from harness.core.schedule import uniform_lambda

if TYPE_CHECKING:
    from harness.api import Dataset, Teacher


class Probe:
    """Streams (x_0, eps) in small batches, the same ones at every noise level.

    Common random numbers make the curves smooth in t; antithetic pairs (each x_0 is seen with eps
    and with -eps) remove the noise of x_0 from Stein's estimator, which would swamp it at high
    noise. Memory does not grow with `levels`: one batch at one level is held at a time.

    Attributes:
        evaluations: teacher evaluations of one sample so far; a Jacobian-vector product counts 2.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: Dataset,
        *,
        levels: int = 120,
        samples: int = 4096,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        seed: int = 0,
        batch: int = 1024,
        device: torch.device | str = "cpu",
    ) -> None:
        if levels < 4 or samples < 4:
            raise ValueError(f"calibration needs 4 levels and 4 samples or more: {levels, samples}")
        self.teacher = teacher
        self.dataset = dataset
        self.sigma = uniform_lambda(levels, sigma_min, sigma_max)
        self.samples = samples - samples % 2
        self.seed = seed
        self.batch = max(2, batch - batch % 2)
        self.device = torch.device(device)
        self.evaluations = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.teacher.spec.shape

    def draws(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """Yield (x_0, eps, v, labels) batches, float64.

        Halves of a batch are antithetic pairs; v is a random sign per coordinate, independent of
        eps, for Hutchinson's trace estimator.
        """
        coordinates = math.prod(self.shape)
        for start in range(0, self.samples // 2, self.batch // 2):
            stop = min(start + self.batch // 2, self.samples // 2)
            numbers = torch.arange(start, stop, device=self.device)
            x0, labels = self.dataset.draw(self.seed, "calibration", numbers)
            x0 = x0.to(self.device).double()
            eps = normal(self.seed, "calibration noise", 0, numbers, self.shape, torch.float64)
            if labels is not None:
                labels = labels.to(self.device).repeat(2, 1)
            sign = words(self.seed, "calibration signs", 0, numbers, coordinates) % 2 * 2 - 1
            sign = sign.double().reshape(len(numbers), *self.shape)
            yield torch.cat([x0, x0]), torch.cat([eps, -eps]), torch.cat([sign, sign]), labels

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The teacher's D(x, t), float64 [B, *shape]."""
        self.evaluations += len(x)
        return self.teacher.denoise(x, t, labels).double()

    def denoise_jvp(
        self, x: Tensor, t: Tensor, dx: Tensor, dt: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """D(x, t) and its directional derivative along (dx, dt), float64, in forward mode."""
        self.evaluations += 2 * len(x)

        def at(x: Tensor, t: Tensor) -> Tensor:
            return self.teacher.denoise(x, t, labels)

        with warnings.catch_warnings():
            # torch's own forward-mode decompositions warn about torch.jit on first use
            warnings.simplefilter("ignore")
            value, slope = torch.func.jvp(at, (x, t), (dx, dt))
        return value.double(), slope.double()
