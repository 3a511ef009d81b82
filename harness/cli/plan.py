"""`plan`: list the cells of a grid and the measurements they lack; imports no torch."""

from __future__ import annotations

import argparse
import sys

from tabulate import tabulate

from harness.bench.forecast import forecast
from harness.cli import add_grid_arguments, bench_command
from harness.config.grid import load_grid
from harness.config.matrix import Matrix, expand, shard
from harness.config.needs import missing_weights
from harness.config.quick import quick
from harness.config.schema import Launch
from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, ArtifactError
from harness.runner import devices
from harness.runner.prepare import edited
from harness.store.store import ResultStore
from harness.visible import counted, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `plan`."""
    add_grid_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Print one line per cell with what is missing; 1 if the files of a cell cannot be read."""
    grid = load_grid(args.matrix, args.set)
    if args.quick:
        grid = quick(grid)
    whole = expand(grid, args.only, args.plugin)
    matrix = shard(whole, args.shard)
    store = ResultStore(grid.results)
    for note in [*edited(store, matrix), *matrix.notes]:
        print(f"note: {note}", file=sys.stderr)
    rows = []
    owed, code = 0, EXIT_DONE
    for spec in matrix.specs:
        run = store.run_at(spec.run_id)
        wanted = matrix.wanted(spec)
        what = "-"
        try:
            state, missing = run.status()["state"], run.missing(wanted)
        except ArtifactError as error:
            state, missing, what, code = "unreadable", [], visible(str(error)), EXIT_CELL_FAILED
        owed += len(missing)
        if missing:
            steps = sorted({measure.step for measure in missing})
            what = f"{len(missing)} of {len(wanted)} numbers, at steps {_short(steps)}"
        rows.append([spec.run_id, spec.precond.label, spec.seed, state, what])
    print(tabulate(rows, headers=["run", "precond", "seed", "state", "missing"]))
    for lacking in missing_weights(matrix.extractors):
        print(f"not on this machine: {lacking}")
    local = grid.launch.launcher == "local"
    if grid.launch.device == "cuda" and local and not devices.visible():
        print("note: launch.device is cuda and no GPU is visible here, so `run` would refuse")
    for skip in matrix.skips:
        print(f"skipped {skip.cell}: {visible(skip.reason)}")
    part = f"shard {args.shard}, {len(matrix.specs)} of " if args.shard else ""
    print(
        f"\n{grid.name}: {part}{counted(len(whole.specs), 'cell')}, {_each(matrix)} numbers each,"
        f" {owed} missing; {max(grid.budgets)} steps of batch {grid.train.batch} per cell;"
        f" {_at_once(grid.launch)} at a time, {counted(grid.launch.processes, 'process')} each"
    )
    if owed:
        expected = forecast(
            matrix, store, gpu=grid.launch.device != "cpu" and bool(devices.visible())
        )
        print(expected.text(bench_command(args)))
    return code


def _each(matrix: Matrix) -> str:
    """How many numbers a cell owes: objectives may differ in their samplers."""
    counts = sorted({len(matrix.wanted(spec)) for spec in matrix.specs})
    return " or ".join(map(str, counts))


def _at_once(launch: Launch) -> str:
    return str(launch.slots if launch.launcher == "local" else launch.slurm.parallel or "all")


def _short(steps: list[int]) -> str:
    if len(steps) <= 4:
        return ", ".join(map(str, steps))
    return f"{steps[0]}, {steps[1]}, ... {steps[-1]}"
