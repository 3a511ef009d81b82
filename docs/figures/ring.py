"""The problem all figures are drawn on: the ring of eight Gaussians, whose ODE is known exactly."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from harness.api import Preconditioning, Teacher, calibrate, create_precond, create_teacher
from harness.core.sampling import initial_noise
from harness.core.schedule import karras
from harness.core.solver import solve
from harness.core.student import Student

NAMES = ("ctm", "edm", "analytic")


class PerfectNetwork:
    """F as the teacher's own raw output gives it: a student before any training."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.variance = teacher.spec.sigma_data**2

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """F = (D - c_skip x)/c_out at t; s is not looked at."""
        t = t.reshape(-1, 1)
        total = t * t + self.variance
        c_skip, c_out = self.variance / total, t * (self.variance / total).sqrt()
        return (self.teacher.denoise(x, t[:, 0]) - c_skip * x) / c_out


@functools.cache
def teacher() -> Teacher:
    """The ring."""
    return create_teacher("gmm")


@functools.cache
def preconds() -> dict[str, Preconditioning]:
    """The preconditionings drawn, calibrated where they need it."""
    sigma_data = teacher().spec.sigma_data
    made = {name: create_precond(name, sigma_data=sigma_data) for name in NAMES}
    return {name: calibrate(precond, teacher()) for name, precond in made.items()}


def untrained(name: str) -> Student:
    """A student with the teacher's own network, seen through a preconditioning."""
    return Student(PerfectNetwork(teacher()), preconds()[name])


def noises(count: int) -> Tensor:
    """Starting points at sigma_max, float64 [count, 2]."""
    return initial_noise(0, torch.arange(count), (2,), 80.0, torch.float64)


def paths(x: Tensor, levels: Tensor) -> Tensor:
    """The exact ODE through x [B, 2] at levels[0], read at every level: [len(levels), B, 2]."""
    points = [x]
    for pair in levels.unfold(0, 2, 1):
        points.append(solve(teacher().denoise, points[-1], pair, substeps=8))
    return torch.stack(points)


def fine() -> Tensor:
    """Levels to draw a smooth curve through; those of 1, 2, 3, 4, 5 and 6 jumps are among them."""
    return karras(61)


def scaled(x: Tensor, t: Tensor) -> Tensor:
    """x / sqrt(t^2 + sd^2), x [..., 2]: points of all noise levels at one size."""
    return x / (t**2 + teacher().spec.sigma_data ** 2).sqrt()[..., None]
