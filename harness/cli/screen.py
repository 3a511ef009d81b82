"""`screen`: ranks the preconditionings of a grid on its teachers without training anything."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from harness.cli import add_grid_arguments
from harness.errors import EXIT_DONE, ConfigError

#: numbers of steps whose accuracy is known
STEPS = (1, 2, 5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `screen`."""
    parser.epilog = (
        "Nothing is trained. Those that measure their teacher are calibrated first, and the\n"
        "calibration is kept for `run`. A ranking before training is a guess at one after it: how\n"
        "good a guess is printed below the tables."
    )
    add_grid_arguments(parser, shard=False)
    parser.add_argument("--samples", type=int, default=1024, help="of the data (default: 1024)")


def main(args: argparse.Namespace) -> int:
    """Print a table for each teacher and number of steps, then what such tables were worth."""
    from harness.config.grid import load_grid
    from harness.config.matrix import expand
    from harness.store.store import ResultStore

    if args.samples < 2:
        raise ConfigError("screen: --samples must be 2 or more")
    grid = load_grid(args.matrix, args.set)
    matrix = expand(grid, args.only, args.plugin)
    results = ResultStore(grid.results).prepare().root
    from harness.evaluate.screen import ACCURACY

    problems = dict.fromkeys((spec.teacher.label, spec.dataset.label) for spec in matrix.specs)
    for teacher, dataset in problems:
        specs = {
            spec.precond.label: spec
            for spec in matrix.specs
            if (spec.teacher.label, spec.dataset.label) == (teacher, dataset)
        }
        _print_problem(teacher, specs, grid.report.baseline, results, args.samples)
    print(
        "How far to trust this: rank correlations with the error after training (docs/findings.md)"
    )
    rows = [[*a[:4], *(f"{rho:+.2f}" for rho in a.rho)] for a in ACCURACY]
    headers = ["number", "error at the", "studies", "pairs", *(f"NFE {nfe}" for nfe in STEPS)]
    print(tabulate(rows, headers=headers, disable_numparse=True))
    return EXIT_DONE


def _print_problem(teacher: str, specs: dict, baseline: str, results: Path, samples: int) -> None:
    """The tables of one teacher and its data."""
    import torch

    from harness.api import create
    from harness.config.plugins import resolve_dataset
    from harness.evaluate.screen import screen
    from harness.registry import blaming, registry
    from harness.train.cell import calibrated

    if baseline not in specs:
        raise ConfigError(f"screen: the baseline {baseline!r} is not among the preconditionings")
    spec = next(iter(specs.values()))
    made = create("teacher", spec.teacher.name, spec.teacher.params)
    data = resolve_dataset(spec.dataset, made)
    preconds = {}
    for label, cell in specs.items():
        with blaming("precond", registry.get("precond", cell.precond.name), "calibrate"):
            device = torch.device("cpu")
            preconds[label] = calibrated(cell.precond, made, data, results, device)[0]
    found = screen(preconds, made, data, baseline, STEPS, samples)
    for nfe in STEPS:
        rows = [row for row in found if row.nfe == nfe]
        table = [
            [
                row.precond,
                f"{row.untrained:.3f}",
                _rank(row.untrained, [other.untrained for other in rows]),
                f"{row.amplification:.3f}",
                _rank(row.amplification, [other.amplification for other in rows]),
            ]
            for row in rows
        ]
        headers = ["precond", "error before training", "start", "amplification", "end"]
        print(
            f"{teacher}, NFE {nfe}: ratios to {baseline}, below 1 is better; start, end: the"
            " ranks that these two predict for the start and for the end of training"
        )
        print(tabulate(table, headers=headers, disable_numparse=True), end="\n\n")


def _rank(value: float, others: list[float]) -> int:
    """1 for the smallest; what differs by less than 1 % is alike."""
    return 1 + sum(other < 0.99 * value for other in others)
