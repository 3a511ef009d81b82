"""`run`: everything a grid still owes, then the tables."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cli import add_grid_arguments
from harness.cli.edited import tell_edited
from harness.config.grid import load_grid
from harness.config.matrix import Matrix, expand, shard
from harness.config.needs import missing_trackers, missing_weights, told_at_once
from harness.config.workshop import is_untried
from harness.core.sampler import Sampler
from harness.errors import (
    EXIT_CELL_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    ArtifactError,
    ConfigError,
    DamagedError,
    HarnessError,
)
from harness.runner.scheduler import Outcome, Scheduler
from harness.runner.slurm import Slurm
from harness.store.lease import taken
from harness.store.records import Measure, RunSpec, State
from harness.store.store import ResultStore, Run, without_average
from harness.store.tables import TABLES, kept_tables, save_matrix, sources
from harness.visible import visible


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
    if args.detach and grid.launch.launcher == "local":
        raise ConfigError("--detach: only jobs of a cluster go on alone; add --launcher slurm")
    matrix = expand(grid, args.only, args.plugin)
    mine = shard(matrix, args.shard)
    store = ResultStore(grid.results)
    owed = [spec for spec in matrix.specs if _owes(store.run_at(spec.run_id), matrix.wanted(spec))]
    tell_edited(store, matrix)
    if owed:
        _check_machine(store, matrix)
        _try_plugins(matrix, owed)
    if note := save_matrix(store.prepare(), matrix, whole=_is_whole(args)):
        print(f"note: {note}", file=sys.stderr)
    for spec in matrix.specs:
        if spec not in owed:
            _settle(store.open(spec))
    if not owed:
        print(f"{len(matrix.specs)} of {len(matrix.specs)} cells are done, nothing to do.")
        return _tables(store, grid.name)
    part = f" (shard {args.shard}: {len(mine.specs)} of the cells)" if args.shard else ""
    print(
        f"{grid.name}: {len(matrix.specs)} cells, {len(matrix.specs) - len(owed)} done,"
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
    code = _tables(store, grid.name)
    return _conclude(outcome) or code


def _is_whole(args: argparse.Namespace) -> bool:
    """Whether the grid is run as its file has it; where and how it is run is no part of that."""
    keys = (setting.partition("=")[0] for setting in args.set)
    return not args.only and all(
        key in ("results", "name") or key.startswith("launch.") for key in keys
    )


def _owes(run: Run, wanted: Sequence[Measure]) -> bool:
    try:
        owes = bool(run.missing(wanted))
        _ = owes or run.spec
    except (DamagedError, FileNotFoundError):
        return owes  # spec.json, which is written anew
    except ArtifactError:
        return True  # told where it is run, so that its neighbours are run too
    return owes


def _settle(run: Run) -> None:
    """A cell with all its numbers is done, also if it was killed before it could say so."""
    whole = run.known_status()["state"] == State.DONE and not run.is_torn()
    if not whole and taken(lease := run.lease()):
        run.settle()  # else it is at work, for another grid
        lease.release()


def _check_machine(store: ResultStore, matrix: Matrix) -> None:
    """Weights, statistics and packages that lack or do not fit are told now, not after training.

    Raises:
        ConfigError: with all of them.
    """
    wrong = missing_weights(matrix.extractors)
    wrong += missing_trackers(matrix.request.track)
    config = matrix.grid.launch.accelerate_config
    if config and not Path(config).is_file():
        wrong.append(
            f"launch.accelerate_config: {config}: no such file; `accelerate config` makes one"
        )
    for name, file in matrix.request.references.items():
        from harness.api import create
        from harness.evaluate.reference import load_reference

        try:
            load_reference(Path(file["file"]), create("extractor", name), file["n"])
        except HarnessError as error:
            wrong.append(f"evaluate.references.{name}: {error}")
    for spec in matrix.specs:
        run = store.run_at(spec.run_id)
        if lacking := run.without_averages(matrix.request.averages):
            wrong.append(without_average(run.path, lacking))
    request = matrix.request
    wrong += misfitting_times(request.samplers, request.nfe, matrix.specs)
    if wrong:
        raise told_at_once(wrong, f"grid {matrix.grid.name!r}")


def _try_plugins(matrix: Matrix, owed: Sequence[RunSpec]) -> None:
    """Plugins of cells that are about to start are tried on a few samples.

    Raises:
        ConfigError: with all that fail.
    """
    request = matrix.request
    plugins: list[tuple[str, str, Mapping[str, Any]]] = [
        *(("teacher", spec.teacher.name, {}) for spec in owed),
        *(("dataset", spec.dataset.name, {}) for spec in owed if spec.dataset.name != "teacher"),
        *(("precond", spec.precond.name, {}) for spec in owed),
        *(("objective", spec.objective.name, spec.objective.changed) for spec in owed),
        *(("extractor", name, {}) for name in matrix.extractors),
        *(("metric", *request.metric_plugin(label).values()) for label in request.metrics),
    ]
    if not any(is_untried(*plugin) for plugin in plugins):
        return  # before torch is imported, which takes longer than all trials
    from harness.train.trial import failures

    if wrong := failures(matrix, owed):
        raise told_at_once(wrong, f"grid {matrix.grid.name!r}", "plugins fail")


def misfitting_times(
    samplers: Iterable[str], nfe: Iterable[int], specs: Iterable[RunSpec]
) -> list[str]:
    """Samplers that take more steps than the grid has that the cells' objectives train on."""
    walked = [text for text in samplers if Sampler.read(text).times == "trained"]
    if not walked:
        return []  # before torch is imported
    from harness.api import TeacherSpec, create
    from harness.core.sampling import nodes

    wrong: dict[str, None] = {}
    spec, most = TeacherSpec((1,), 0.5, "any"), max(nfe)
    for plugin in {cell.objective.label: cell.objective for cell in specs}.values():
        grid = create("objective", plugin.name, plugin.params).trained_times(spec)
        for text in walked:
            try:
                nodes(Sampler.read(text), most, spec, grid)
            except ValueError as error:
                wrong[f"evaluate.samplers: {error} (objective {plugin.label})"] = None
    return list(wrong)


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


def _conclude(outcome: Outcome) -> int:
    for run_id, reason in outcome.failed.items():
        print(f"{run_id}: {reason}", file=sys.stderr)
    if outcome.interrupted:
        print("interrupted: the same command continues from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_CELL_FAILED if outcome.failed else EXIT_DONE


class Progress:
    """A bar over all training steps on a terminal, a line per finished cell elsewhere."""

    def __init__(self, matrix: Matrix) -> None:
        from tqdm import tqdm

        self.last = max(matrix.request.budgets)
        self.cells = len(matrix.specs)
        self.told: set[str] = set()
        self.bar = tqdm(
            total=self.last * self.cells,
            unit="step",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, runner: Scheduler | Slurm) -> None:
        """Show where the matrix is; called about ten times a second."""
        outcome = runner.outcome
        ended = len(outcome.done) + len(outcome.failed)
        if not self.bar.disable:
            steps = [work.run.known_status().get("step", 0) for work in runner.working]
            self.bar.n = ended * self.last + sum(steps)
            self.bar.set_postfix_str(f"{ended}/{self.cells} cells; {runner.now}", refresh=True)
            return
        for run_id in [*outcome.fresh, *outcome.failed]:
            if run_id not in self.told:
                self.told.add(run_id)
                how = outcome.failed.get(run_id, "done")
                print(f"[{ended}/{self.cells}] {run_id}: {how}", flush=True)
