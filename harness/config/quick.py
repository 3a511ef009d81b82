"""Reduce a grid to a quick test that everything in it works (`--quick`)."""

from __future__ import annotations

from harness.config.schema import Grid, PluginRef
from harness.registry import registry
from harness.store.records import QUICK

#: at most so much of each: what calibrations measure, how long and on what is trained and measured
CALIBRATION = {"levels": 24, "samples": 256}
BUDGETS, BATCH, SAMPLES, ODE_STEPS, FIT_STEPS = [10, 20], 64, 128, 32, 300


def quick(grid: Grid) -> Grid:
    """The grid with its first seed alone, short budgets, few samples and small calibrations.

    Name and results folder end in `-quick`, so that its numbers meet those of no full run.
    """
    axes = grid.axes.model_copy(
        update={
            "precond": [_small(ref) for ref in grid.axes.precond],
            "seed": grid.axes.seed[:1],
        }
    )
    shares = grid.launch.processes
    batch = min(grid.train.batch, max(shares, BATCH - BATCH % shares))
    train = {"batch": batch, "micro_batch": None}
    if grid.train.lr_zero_at is not None:
        train["lr_zero_at"] = BUDGETS[-1]
    few = {
        "samples": min(grid.evaluate.samples, SAMPLES),
        "ode_steps": min(grid.evaluate.ode_steps, ODE_STEPS),
    }
    fit = {"fit_steps": min(grid.backbone.fit_steps, FIT_STEPS)}
    return grid.model_copy(
        update={
            "name": grid.name + QUICK,
            "results": grid.results.rstrip("/") + QUICK,
            "axes": axes,
            "train": grid.train.model_copy(update=train),
            "backbone": grid.backbone.model_copy(update=fit),
            "budgets": BUDGETS,
            "evaluate": grid.evaluate.model_copy(update=few),
        }
    )


def _small(ref: PluginRef) -> PluginRef:
    """A preconditioning that measures less of the teacher, if it has such parameters."""
    fields = registry.get("precond", ref.name).Params.model_fields
    less = {
        key: min(most, ref.params.get(key, fields[key].default))
        for key, most in CALIBRATION.items()
        if key in fields
    }
    return PluginRef(name=ref.name, params={**ref.params, **less})
