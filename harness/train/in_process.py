"""A whole cell in the calling process, without a results folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.config.matrix import wanted
from harness.config.plugins import own_sources
from harness.evaluate.evaluator import Evaluator
from harness.store.records import EvalRow, Request, RunSpec
from harness.train.cell import build_cell
from harness.train.loop import Trainer
from harness.train.machine import Machine
from harness.train.measure import by_sampling, rows
from harness.train.torch_settings import repeatably, tune


def run_cell(
    spec: RunSpec,
    request: Request,
    *,
    device: str = "auto",
    results: Path | None = None,
    on_row: Callable[[EvalRow], object] = lambda row: None,
) -> list[EvalRow]:
    """Build, train and evaluate a cell in this process; return the rows that a worker would write.

    They are bitwise equal to those of a single worker process with the same device and number of
    threads. Nothing else is kept, neither weights nor checkpoints.

    Args:
        device: auto, cpu or cuda.
        results: a results folder whose artifacts (calibrations, fitted backbones, references) are
            shared between cells; None computes them anew for each cell.
        on_row: called with each row as soon as it is known.

    Raises:
        ConfigError: a plugin breaks its contract, or there is no such device.
        DivergedError: a loss, a weight or a measured value is not finite.
    """
    machine = Machine.named(device, spec.train["precision"])
    request = replace(request, track=[])  # trackers show what is kept in a folder
    plugins = own_sources(spec, request)
    found: list[EvalRow] = []
    with repeatably():
        cell = build_cell(spec, results, machine.device)
        tune(cell, **request.switches)
        times = cell.objective.trained_times(cell.teacher.spec)
        evaluator = Evaluator(
            cell.teacher, cell.dataset, request, machine, results, trained_times=times
        )
        trainer = Trainer(cell, None, request, machine)
        for step in request.budgets:
            trainer.train_to(step)
            of_step = (measure for measure in wanted(request, spec) if measure.step == step)
            for group in by_sampling(of_step):
                for row in rows(cell, evaluator, group, trainer.state.seconds, plugins):
                    found.append(row)
                    on_row(row)
    return found
