"""A network for a teacher that is none: a backbone fitted to its denoiser, once, for all cells."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from harness.api import Dataset, Teacher, edm_inner
from harness.backbones.mlp import MLP
from harness.core.random import normal, uniform
from harness.store.artifacts import Artifact, get_or_make

REVISION = 1


def make_mlp(teacher: Teacher, settings: dict) -> MLP:
    """The backbone of a grid's `backbone` section, with reproducible initial weights."""
    (dim,) = teacher.spec.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(
            dim,
            sigma_data=teacher.spec.sigma_data,
            width=settings["width"],
            depth=settings["depth"],
            classes=teacher.spec.classes,
        )


def fitted_backbone(
    teacher: Teacher, dataset: Dataset, settings: dict, results: Path
) -> tuple[MLP, Artifact]:
    """The backbone whose denoiser approximates the teacher's, from the artifact store."""
    key = {
        "revision": REVISION,
        "teacher": teacher.spec.digest,
        "dataset": dataset.spec.digest,
        "backbone": settings,
    }
    artifact = get_or_make(
        results,
        "backbones",
        key,
        lambda: {k: v.numpy() for k, v in fit(teacher, dataset, settings).state_dict().items()},
    )
    backbone = make_mlp(teacher, settings)
    backbone.load_state_dict({k: torch.from_numpy(v) for k, v in artifact.arrays.items()})
    return backbone, artifact


def fit(teacher: Teacher, dataset: Dataset, settings: dict) -> MLP:
    """Regress F on (D - c_skip x)/c_out with the teacher's exact D: unit-variance targets.

    Noise levels are half EDM's training distribution (log t ~ N(-1.2, 1.2^2)), half log-uniform
    over the whole range, because a student starts its jumps at sigma_max. The s branch is left
    out of the fit: it stays at zero.
    """
    spec = teacher.spec
    backbone = make_mlp(teacher, settings)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=settings["fit_lr"])
    steps, batch = settings["fit_steps"], settings["fit_batch"]
    slots = torch.arange(batch)
    span = math.log(spec.sigma_max / spec.sigma_min)
    for step in range(steps):
        x0, labels = dataset.draw(0, "backbone fit", step * batch + slots)
        u = uniform(0, "fit level", step, slots)[:, 0]
        n = normal(0, "fit log level", step, slots, (), torch.float64)
        t = torch.where(slots % 2 == 0, (1.2 * n - 1.2).exp(), spec.sigma_min * (u * span).exp())
        t = t.clamp(spec.sigma_min, spec.sigma_max)
        x = x0.double() + t[:, None] * normal(
            0, "fit noise", step, slots, spec.shape, torch.float64
        )
        with torch.no_grad():
            c_skip, c_out = edm_inner(t[:, None], spec.sigma_data)
            goal = (teacher.denoise(x, t, labels) - c_skip * x) / c_out
        loss = (backbone(x.float(), t, None, labels) - goal.float()).square().mean()
        optimizer.param_groups[0]["lr"] = (
            settings["fit_lr"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return backbone
