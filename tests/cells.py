"""Cells for tests that look inside one, made by the builder that workers use."""

from __future__ import annotations

from typing import Any

import torch

from harness.config.grid import make_grid
from harness.config.matrix import expand
from harness.train.cell import Cell, build_cell


def cell_of(
    teacher: Any,
    precond: Any = "ctm",
    objective: Any = "ctm",
    dataset: Any = "teacher",
    seed: int = 0,
    device: str = "cpu",
    **sections: Any,
) -> Cell:
    """The cell of these plugins, its network not fitted; sections as in a grid."""
    axes = {"precond": precond, "teacher": teacher, "objective": objective, "dataset": dataset}
    grid = {
        "version": 1,
        "name": "cell",
        "axes": {axis: [value] for axis, value in axes.items()} | {"seed": [seed]},
        "report": {"baseline": precond if isinstance(precond, str) else next(iter(precond))},
        "budgets": [0],
        **sections,
    }
    (spec,) = expand(make_grid(grid, [], "grid.yaml")).specs
    return build_cell(spec, None, torch.device(device), fit=False)
