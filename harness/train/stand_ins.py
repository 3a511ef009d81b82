"""Cheap stand-ins for teachers, data and students, on which plugins are tried before a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.api import Basis, Dataset, DatasetSpec, Teacher
from harness.core.random import normal
from harness.core.sampling import evaluation_labels
from harness.core.solver import per_sample
from harness.core.student import Student


class Banded(Student):
    """A student whose basis has a single band: for losses that weight bands."""

    shape: tuple[int, ...]

    @property
    def basis(self) -> Basis:
        """See `Student.basis`."""
        axes = [torch.eye(n, dtype=torch.float64) for n in self.shape]
        one = torch.ones(1, dtype=torch.float64)
        return Basis(axes, torch.zeros(self.shape, dtype=torch.int64), one)


class GaussianDenoiser:
    """Replaces a network teacher's `denoise` by the exact denoiser of Gaussian data N(0, sd^2 I).

    D = sd^2/(sd^2 + sigma^2) x. All other attributes are the teacher's own.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Teacher.denoise`."""
        var = self._teacher.spec.sigma_data**2
        level = torch.as_tensor(sigma, dtype=torch.float64)
        return per_sample(var / (level.square() + var), x) * x

    def to(self, device: Any) -> GaussianDenoiser:
        """See `Teacher.to`."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)


class Noise(Dataset):
    """Gaussian data N(0, sigma_data^2 I) with a teacher's shape and classes."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.scale, spec = teacher.spec.sigma_data, teacher.spec
        self.spec = DatasetSpec(spec.shape, "noise", spec.classes)

    def draw(self, seed: int, purpose: str, sample_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Dataset.draw`."""
        x0 = self.scale * normal(seed, purpose, 0, sample_index, self.spec.shape, torch.float32)
        return x0, evaluation_labels(seed, sample_index, self.spec.classes)
