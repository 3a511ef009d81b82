"""`run`: run the unfinished cells of a grid, then print the tables."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys

from harness.cli import add_grid_arguments
from harness.config.grid import load_grid
from harness.config.matrix import expand, shard
from harness.config.quick import quick
from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, EXIT_INTERRUPTED, ConfigError
from harness.runner import prepare
from harness.runner.progress import Progress
from harness.runner.scheduler import Outcome, Scheduler
from harness.runner.slurm import Slurm
from harness.store.records import State
from harness.store.store import ResultStore
from harness.store.tables import TABLES, kept_tables, sources
from harness.visible import counted, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `run`."""
    add_grid_arguments(parser)
    parser.add_argument(
        "--rerun",
        choices=["failed", "diverged"],
        action="append",
        default=[],
        help="try diverged cells again too (failed ones are always tried again)",
    )
    parser.add_argument(
        "--launcher", choices=["local", "slurm"], help="override launch.launcher of the grid"
    )
    parser.add_argument(
        "--detach", action="store_true", help="slurm: submit and return, do not wait for the tables"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")


def main(args: argparse.Namespace) -> int:
    """Run the grid; see harness/errors.py for the exit codes."""
    if args.launcher:
        args.set = [*args.set, f"launch.launcher={args.launcher}"]
    if args.dry_run:
        from harness.cli import plan

        return plan.main(args)
    grid = load_grid(args.matrix, args.set)
    if args.quick:
        grid = quick(grid)
    if args.detach and grid.launch.launcher == "local":
        raise ConfigError("--detach: only jobs of a cluster go on alone; add --launcher slurm")
    matrix = expand(grid, args.only, args.plugin)
    mine = shard(matrix, args.shard)
    store = ResultStore(grid.results)
    owed = prepare.owed_cells(store, matrix)
    for note in [*prepare.edited(store, matrix), *matrix.notes]:
        print(f"note: {note}", file=sys.stderr)
    prepare.check(store, matrix, owed)
    whole = prepare.is_whole(args.only, (setting.partition("=")[0] for setting in args.set))
    if note := prepare.enter(store, matrix, owed, whole=whole):
        print(f"note: {note}", file=sys.stderr)
    if not owed:
        print(f"{counted(len(matrix.specs), 'cell')}, all done, nothing to do.")
        return _tables(store, grid.name)
    part = f" (shard {args.shard}: {len(mine.specs)} of the cells)" if args.shard else ""
    print(
        f"{grid.name}: {counted(len(matrix.specs), 'cell')}, {len(matrix.specs) - len(owed)} done,"
        f" {len(owed)} to do{part}; results in {store.root}",
        flush=True,
    )
    for skip in matrix.skips:
        print(f"  skipped {skip.cell}: {visible(skip.reason)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        # both end a matrix cleanly, also where a shell started us with SIGINT ignored (nohup, &)
        signal.signal(number, signal.default_int_handler)
    with Progress(mine) as progress:
        rerun = frozenset(State(name) for name in args.rerun)
        settings = (matrix.request, grid.launch, progress.update, rerun)
        if grid.launch.launcher == "local":
            outcome = Scheduler(store, mine.specs, *settings).run()
        else:
            runner = Slurm(store, grid.name, mine.specs, *settings)
            runner.submit()
            print(runner.handed, flush=True)
            if args.detach:
                print(runner.advice)
                return EXIT_DONE
            outcome = runner.wait()
            if outcome.interrupted:
                print(f"the jobs go on: {runner.advice}", file=sys.stderr)
                return EXIT_INTERRUPTED
    code = EXIT_DONE if outcome.interrupted else _tables(store, grid.name)
    return _conclude(outcome, f"python -m harness report {shlex.quote(str(store.root))}") or code


def _tables(store: ResultStore, grid: str) -> int:
    """Print leaderboard and speed, and the notes; 1 if the files of a run could not be read."""
    kept, code = kept_tables(store, grid, "txt"), EXIT_DONE
    if kept is None:
        from harness.report.write import build_report, write_tables

        made_from = sources(store, grid)
        report = build_report(store, grid)
        write_tables(store, report, made_from)
        kept = {table: report.text(table) for table in TABLES}
        code = EXIT_CELL_FAILED if report.unreadable else EXIT_DONE
    print(f"{kept['leaderboard']}\n{kept['speed']}\ntables: {store.root / 'tables' / grid}")
    for line in kept["coverage"].splitlines():
        if line.startswith("Note: "):
            print(line, file=sys.stderr)
    return code


def _conclude(outcome: Outcome, report: str) -> int:
    for run_id, reason in outcome.failed.items():
        print(f"{run_id}: {reason}", file=sys.stderr)
    if outcome.interrupted:
        print(
            f"interrupted: the same command continues from here; `{report}` shows what is there",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    return EXIT_CELL_FAILED if outcome.failed else EXIT_DONE
