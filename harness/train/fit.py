"""The initial network for a teacher that is not one: a backbone fitted once to its denoiser."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from harness.api import ConfigError, Dataset, Teacher, create, edm_inner
from harness.backbones.base import Backbone
from harness.backbones.dropout import hold_draws
from harness.core.progress import tell
from harness.core.random import normal, uniform
from harness.core.solver import per_sample
from harness.errors import described
from harness.registry import blaming, own_source, place, registry
from harness.store.artifacts import Artifact, get_or_make

REVISION = 1
Device = torch.device | str


def make_backbone(teacher: Teacher, settings: dict, seed: int = 0) -> Backbone:
    """Build the backbone of a grid's `backbone` section, with initial weights drawn from `seed`.

    Args:
        settings: `name` and parameters of an architecture; the keys of the fit are ignored.

    Raises:
        ConfigError: the architecture's `build` raises, or does not return a `Backbone`.
    """
    cls = registry.get("backbone", settings["name"])
    params = {key: value for key, value in settings.items() if key in cls.Params.model_fields}
    with torch.random.fork_rng(devices=[]), blaming("backbone", cls, "build"):
        torch.manual_seed(seed)
        made: object = create("backbone", settings["name"], params).build(teacher.spec)
    if not isinstance(made, Backbone):
        raise ConfigError(
            f"backbone {cls.name!r} ({place(cls, method='build')}): build gave {described(made)},"
            " expected a harness.backbones.base.Backbone"
        )
    return made


def fitted_backbone(
    teacher: Teacher,
    dataset: Dataset,
    settings: dict,
    results: Path | None,
    device: Device = "cpu",
) -> tuple[Backbone, Artifact]:
    """The backbone fitted to the teacher, from the artifact store, or fitted and stored now."""
    key = {
        "revision": REVISION,
        "teacher": teacher.spec.digest,
        "dataset": dataset.spec.digest,
        "backbone": settings,
    }
    if source := own_source(registry.get("backbone", settings["name"])):
        key["source"] = source  # what was fitted before an edit is not used
    artifact = get_or_make(
        results,
        "backbones",
        key,
        lambda: {
            key: value.cpu().numpy()
            for key, value in fit(teacher, dataset, settings, device).state_dict().items()
        },
    )
    backbone = make_backbone(teacher, settings)
    backbone.load_state_dict({k: torch.from_numpy(v) for k, v in artifact.arrays.items()})
    return backbone, artifact


def fit(teacher: Teacher, dataset: Dataset, settings: dict, device: Device = "cpu") -> Backbone:
    """Fit a new backbone F to (D - c_skip x)/c_out by least squares, D the teacher's denoiser.

    Half of the noise levels follow EDM's training distribution (log t ~ N(-1.2, 1.2^2)), half are
    log-uniform over the whole range, because a student's jumps start at sigma_max. The branch for s
    is not trained and stays at zero.
    """
    spec = teacher.spec
    backbone = make_backbone(teacher, settings).to(device)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=settings["fit_lr"])
    steps, batch = settings["fit_steps"], settings["fit_batch"]
    batch_index = torch.arange(batch, device=device)
    span = math.log(spec.sigma_max / spec.sigma_min)
    for step in range(steps):
        tell("fitting the backbone", step, steps)
        x0, labels = dataset.draw(0, "backbone fit", step * batch + batch_index)
        u = uniform(0, "fit level", step, batch_index)[:, 0]
        n = normal(0, "fit log level", step, batch_index, (), torch.float64)
        t = torch.where(
            batch_index % 2 == 0, (1.2 * n - 1.2).exp(), spec.sigma_min * (u * span).exp()
        )
        t = t.clamp(spec.sigma_min, spec.sigma_max)
        hold_draws(backbone, 0, step, batch_index)
        x = x0.double() + per_sample(t, x0.double()) * normal(
            0, "fit noise", step, batch_index, spec.shape, torch.float64
        )
        with torch.no_grad():
            c_skip, c_out = (per_sample(c, x) for c in edm_inner(t, spec.sigma_data))
            target = (teacher.denoise(x, t, labels) - c_skip * x) / c_out
        loss = (backbone(x.float(), t, None, labels) - target.float()).square().mean()
        optimizer.param_groups[0]["lr"] = (
            settings["fit_lr"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return backbone
