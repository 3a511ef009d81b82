"""Runs that were never trained: a folder with weights, made without starting a process."""

from pathlib import Path

import torch

from harness.config.grid import make_grid
from harness.config.matrix import expand
from harness.store.store import ResultStore
from harness.train.cell import build_cell
from harness.train.checkpoint import save_ema


def untrained_run(
    results: Path, teacher, dataset="teacher", *, random: bool = False, **more
) -> Path:
    """The folder of a run of step 0; `random`: noise on its weights, so that every layer counts."""
    grid = {
        "version": 1,
        "name": "x",
        "axes": {"precond": ["ctm"], "teacher": [teacher], "dataset": [dataset]},
        "budgets": [0],
        "results": str(results),
        **more,
    }
    (spec,) = expand(make_grid(grid, [], "grid.yaml")).specs
    run = ResultStore(results).open(spec)
    network = build_cell(spec, results, torch.device("cpu")).network
    if random:
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.02 * torch.randn(weight.shape, generator=draw))
    save_ema(run.weights(0), network)
    return run.path
