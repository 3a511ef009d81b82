"""Trajectories of 2-D data: the teacher's ODE and the student's jumps from a few noise samples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Teacher
    from harness.evaluate.pictures import Walks

COUNT = 12
LEVELS, SUBSTEPS = (
    61,
    4,
)  # 60 intervals: the nodes of 1, 2, 3, 4, 5, 6, 10, ... jumps are among them


def save_trajectories(walks: Walks, teacher: Teacher, seed: int, device: Any) -> None:
    """Write PATH.json for every entry of `walks`, unless the file exists.

    Starts from noise 0..11 of the evaluation with this `seed`, the same for every preconditioning.
    The file holds `sigma_data`; the student's `nodes` [N + 1] and `student` [12, N + 1, 2]; and the
    teacher's `levels` [61] and `teacher` [12, 61, 2], a fine Heun solution from the same noise.
    Nothing is written unless samples have shape [2].
    """
    spec = teacher.spec
    if spec.shape != (2,):
        return
    import torch

    from harness.core.sampling import evaluation_labels, fresh_noise, initial_noise
    from harness.core.schedule import karras
    from harness.core.solver import solve
    from harness.store.files import write_atomic

    paths = {stem.with_name(f"{stem.name}.json"): drawn for stem, drawn in walks.items()}
    paths = {path: drawn for path, drawn in paths.items() if not path.exists()}
    if not paths:
        return
    indices = torch.arange(COUNT, device=device)
    labels = evaluation_labels(seed, indices, spec.classes)
    x = initial_noise(seed, indices, spec.shape, spec.sigma_max, torch.float64)
    with torch.no_grad():
        levels = karras(LEVELS, spec.sigma_min, spec.sigma_max).to(device)
        truth = [x]
        for interval in levels.unfold(0, 2, 1):
            truth.append(
                solve(lambda x, t: teacher.denoise(x, t, labels), truth[-1], interval, SUBSTEPS)
            )
        fresh = fresh_noise(seed, indices, spec.shape)
        for path, (student, walk) in paths.items():
            jumps = [x.float(), *walk.states(student, x.float(), fresh, labels)]
            found = {
                "sigma_data": spec.sigma_data,
                "levels": _rounded(levels),
                "teacher": _rounded(torch.stack(truth, 1)),
                "nodes": _rounded(walk.times),
                "student": _rounded(torch.stack(jumps, 1)),
            }
            write_atomic(path, json.dumps(found, separators=(",", ":"), allow_nan=False) + "\n")


def _rounded(values: Tensor) -> Any:
    """Nested lists of numbers with five digits, enough for plots; None for those not finite."""
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{float(values):.5g}") if values.isfinite() else None
