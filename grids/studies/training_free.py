"""Preconditionings as samplers without training, beside ODE solvers with equally many evaluations.

    python grids/studies/training_free.py TEACHER RESULTS PRECOND [PRECOND ...]
    python grids/studies/training_free.py patches results/patches ctm arc spectral

A student whose F is the teacher's own raw output jumps along Karras' levels, one evaluation of the
teacher each; Heun takes (NFE + 1)/2 steps, where NFE is odd; Euler (DDIM), DPM-Solver++(2M) and
UniPC take NFE. Printed are alignment with the teacher's ODE (RMS, 128 steps of Heun) and the
Fréchet distance to fresh data, of 2000 samples from the same noise. Calibrations go into RESULTS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from harness.api import Teacher
from harness.cli.teacher_argument import make_precond, make_teacher
from harness.core.random import normal
from harness.core.sampling import exact
from harness.core.schedule import karras
from harness.core.solver import heun, solve, unipc
from harness.core.student import Student
from harness.evaluate.moments import Moments, frechet

STEPS, SAMPLES = (1, 2, 3, 5, 10), 2000
Denoise = Callable[[Tensor, Tensor], Tensor]


class TeacherOutput:
    """F of a teacher, as a backbone."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def __call__(self, x: Tensor, t: Tensor, s: Tensor | None, labels: Tensor | None) -> Tensor:
        """(D - c_skip x)/c_out, see `Network`."""
        var, level = self.teacher.spec.sigma_data**2, t.reshape(-1, *[1] * (x.dim() - 1))
        total = level**2 + var
        raw = self.teacher.denoise(x, t, labels) - var / total * x
        return raw * total.sqrt() / (level * var**0.5)


def dpm_solver(denoise: Denoise, x: Tensor, times: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), its first step DDIM."""
    before, width = None, (times[:-1] / times[1:]).log()
    for k, h in enumerate(width):
        here = denoise(x, times[k])
        ahead = here
        if before is not None:
            ahead = here + h / (2 * width[k - 1]) * (here - before)
        x = torch.exp(-h) * x - torch.expm1(-h) * ahead
        before = here
    return x


def euler(denoise: Denoise, x: Tensor, times: Tensor) -> Tensor:
    """Euler's method, which is DDIM."""
    for t, s in pairwise(times):
        clean = denoise(x, t)
        x = clean + s / t * (x - clean)
    return x


def main(teacher_name: str, results: str, *names: str) -> None:
    """Print both tables."""
    teacher = make_teacher(teacher_name)
    spec, numbers = teacher.spec, torch.arange(SAMPLES)
    data, _ = teacher.dataset().draw(0, "training free", numbers)
    x = spec.sigma_max * normal(0, "training free noise", 0, numbers, spec.shape, torch.float64)
    span = spec.sigma_min, spec.sigma_max
    with torch.no_grad():
        ends = solve(teacher.denoise, x, karras(129, *span), 1)
        rows = {}
        for name in names:
            student = Student(TeacherOutput(teacher), make_precond(name, teacher, Path(results)))
            rows[name] = [list(exact(student, x, karras(n + 1, *span)))[-1] for n in STEPS]
        for solver in (euler, dpm_solver, unipc):
            rows[solver.__name__] = [
                solver(teacher.denoise, x, karras(n + 1, *span)) for n in STEPS
            ]
        rows["heun"] = [
            end_with_euler(teacher.denoise, x, karras((n + 1) // 2 + 1, *span)) if n % 2 else None
            for n in STEPS
        ]
    reference = Moments.of(data.flatten(1))
    for metric, number in (
        ("alignment", lambda a: float((a - ends).square().mean().sqrt())),
        ("frechet", lambda a: frechet(Moments.of(a.flatten(1)), reference)),
    ):
        table = [
            [name, *("-" if a is None else f"{number(a):.3f}" for a in found)]
            for name, found in rows.items()
        ]
        headers = [metric, *(f"NFE {n}" for n in STEPS)]
        print(tabulate(table, headers=headers, disable_numparse=True), end="\n\n")


def end_with_euler(denoise: Denoise, x: Tensor, times: Tensor) -> Tensor:
    """Heun's method whose last step is Euler's, as EDM's sampler ends: 2n - 1 evaluations."""
    return euler(denoise, heun(denoise, x, times[:-1]), times[-2:])


if __name__ == "__main__":
    main(*sys.argv[1:])
