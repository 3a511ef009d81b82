"""Error of the untrained student by direction of the data: what one number for all of x costs."""

from __future__ import annotations

import torch
from matplotlib import pyplot as plt
from style import BLACK, BLUE, GREEN, ORANGE, save

from harness.api import calibrate, create_precond, create_teacher, edm_inner
from harness.core.random import normal
from harness.core.schedule import karras
from harness.core.solver import per_sample, solve
from harness.core.student import Student

ALT = (
    "RMS error of the untrained jump over the deviation of clean data, by band, for a jump from"
    " noise to data and one from t = 2.5, on patches of photographs. ctm is near 1 nearly"
    " everywhere; arc and moment reach 7 in the finest bands; spectral is the lowest in every band,"
    " .6 to 1 from noise."
)
#: preconditioning -> what it is called in the picture, and its line
DRAWN = {
    "ctm": ({}, {"color": BLACK, "linestyle": "-"}),
    "arc": ({}, {"color": BLUE, "linestyle": (0, (1.5, 1.2))}),
    "moment": ({"tangent": False}, {"color": GREEN, "linestyle": (0, (3, 1, 1, 1))}),
    "spectral": ({"directions": 8192}, {"color": ORANGE, "linestyle": (0, (5, 2))}),
}
SAMPLES = 384


class Exact:
    """The network that a perfect student of the teacher begins as: EDM's F of its denoiser."""

    def __init__(self, teacher) -> None:
        self.teacher = teacher

    def __call__(self, x, t, s, labels=None):
        c_skip, c_out = (per_sample(c, x) for c in edm_inner(t, self.teacher.spec.sigma_data))
        return (self.teacher.denoise(x, t, labels) - c_skip * x) / c_out


def draw(path) -> None:
    """Two jumps, one line for each preconditioning over the deviation of clean data."""
    teacher = create_teacher("patches")
    spec, numbers = teacher.spec, torch.arange(SAMPLES)
    x0, _ = teacher.dataset().draw(0, "figure", numbers)
    noise = normal(0, "figure noise", 0, numbers, spec.shape, torch.float64)
    sigma = {"sigma_data": spec.sigma_data}
    preconds = {
        name: calibrate(
            create_precond(name, **sigma, **params), teacher, levels=12, samples=SAMPLES
        )
        for name, (params, _) in DRAWN.items()
    }
    basis = preconds["spectral"].basis
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    for axes, start in zip(panels, (spec.sigma_max, 2.5), strict=True):
        t = torch.full((SAMPLES,), start, dtype=torch.float64)
        s = torch.full_like(t, spec.sigma_min)
        x = x0.double() + start * noise
        end = solve(teacher.denoise, x, karras(17, spec.sigma_min, start), substeps=2)
        for name, precond in preconds.items():
            error = basis.coordinates(Student(Exact(teacher), precond).jump(x, t, s) - end)
            power = torch.zeros(basis.count, dtype=torch.float64)
            power.index_add_(0, basis.bands.flatten(), error.square().mean(0).flatten())
            size = (power / basis.sizes).sqrt() / basis.deviations
            order = basis.deviations.argsort()
            axes.plot(
                basis.deviations[order], size[order], **DRAWN[name][1], label=name, marker="."
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="deviation of clean data in a band",
            title="from noise: t = 80" if start > 3 else f"from t = {start}",
        )
    panels[0].set_ylabel("RMS error, untrained / that deviation")
    panels[0].legend(loc="upper right", fontsize=8)
    save(figure, path, ALT)
