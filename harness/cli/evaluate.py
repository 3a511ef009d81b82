"""`eval`: further evaluations of stored weights, without training."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from harness.cli import add_plugin_argument
from harness.config.matrix import named_metrics
from harness.config.needs import told_at_once
from harness.config.plugins import GridPlugins, plugin_spec
from harness.config.schema import Launch, PluginRef
from harness.core.sampler import Sampler
from harness.errors import (
    EXIT_CELL_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    ConfigError,
    HarnessError,
)
from harness.registry import registry
from harness.runner.prepare import misfitting_times
from harness.runner.scheduler import Scheduler, told
from harness.store.lease import taken
from harness.store.records import Request, State
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.visible import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `eval`."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run ids (default: every run)")
    parser.add_argument("--results", default="results", metavar="DIR", help="where the runs are")
    parser.add_argument("--nfe", type=int, nargs="+", metavar="N", help="numbers of steps")
    parser.add_argument(
        "--samplers",
        nargs="+",
        metavar="NAME",
        help="e.g. exact exact@trained gamma0.5 stochastic stochastic@80,1.382",
    )
    parser.add_argument(
        "--ema", nargs="+", type=float, metavar="RATE", help="averages that training has kept"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the evaluation's noise")
    parser.add_argument("--metrics", nargs="+", metavar="NAME")
    parser.add_argument("--extractors", nargs="+", metavar="NAME")
    parser.add_argument("--samples", type=int, metavar="N")
    parser.add_argument("--slots", type=int, default=1, help="runs at a time")
    published = parser.add_argument_group("a student that was trained elsewhere")
    published.add_argument(
        "--student", metavar="FILE", help="a published student (docs/models.md) for a leaderboard"
    )
    published.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="of that file, see `list students`; with parameters 'NAME: {key: value}'",
    )
    published.add_argument(
        "--matrix", metavar="GRID.yaml", help="the grid whose evaluation it is given"
    )
    published.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override the grid's"
    )
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Evaluate every stored budget of the runs, or a published student; print the new rows."""
    if args.student is not None:
        from harness.cli.evaluate_student import evaluate_student

        args.samplers = _samplers(args.samplers)
        return evaluate_student(args)
    if args.matrix is not None or args.set:
        raise ConfigError("eval: --matrix and --set go with --student")
    store = ResultStore(args.results).existing()
    runs = [store.run(run_id) for run_id in args.runs] or store.runs()
    asked = {run.run_id: run.request.plugins for run in runs if run.budgets_with_weights()}
    for file in dict.fromkeys(itertools.chain(*asked.values())):
        registry.load_file(file)
    for name in args.extractors or []:
        registry.get("extractor", name)
    if min(args.nfe or [1]) < 1 or (args.samples or 2) < 2 or args.slots < 1:
        raise ConfigError("eval: --nfe and --slots must be 1 or more, --samples 2 or more")
    if not all(0 <= rate < 1 for rate in args.ema or []):
        raise ConfigError("eval: --ema: a rate is 0 or more and less than 1")
    given = {
        "nfe": args.nfe,
        "samplers": _samplers(args.samplers),
        "emas": args.ema,
        "evaluation_seed": args.seed,
        "extractors": args.extractors,
        "samples": args.samples,
    }
    if args.metrics:
        refs = [PluginRef.model_validate(name) for name in args.metrics]
        given |= named_metrics([plugin_spec("metric", ref) for ref in refs])
    runs, code = _readable(runs)
    groups = _by_request(runs, given)
    if args.samplers or args.nfe:
        _check_samplers(groups)
    before = {run.run_id: set(run.rows()) for run in runs}
    for request, group in groups:
        launch = Launch(slots=args.slots, processes=request.processes)
        found = [(run, run.request, run.known_status()) for run in group]
        outcome = Scheduler(store, [run.spec for run in group], request, launch).run()
        for run, owed, status in found:
            _leave(run, owed, status)
        for run_id, reason in outcome.failed.items():
            code = EXIT_CELL_FAILED
            print(f"{run_id}: {reason}", file=sys.stderr)
        if outcome.interrupted:
            code = EXIT_INTERRUPTED
            break
    count = 0
    for run in runs:
        for measure, row in run.rows().items():
            if measure not in before[run.run_id]:
                count += 1
                ema = "" if row.ema is None else f", EMA {row.ema}"
                print(
                    f"{run.run_id}  step {row.step}  NFE {row.nfe}  {row.sampler}{ema}"
                    f"  {row.metric} ({row.extractor}, n={row.n})  {row.value:.6g}"
                )
    print(f"{counted(count, 'new number')} of {counted(len(runs), 'run')}")
    return code


def _readable(runs: Iterable[Run]) -> tuple[list[Run], int]:
    """(runs whose files can be read, exit code); prints the reason for each of the others."""
    found, code = [], EXIT_DONE
    for run in runs:
        try:
            _ = run.spec, run.request, run.rows()
            found.append(run)
        except (OSError, HarnessError) as error:
            print(f"{run.run_id}: failed: {told(error)}", file=sys.stderr)
            code = EXIT_CELL_FAILED
    return found, code


def _leave(run: Run, owed: Request, status: Mapping[str, Any]) -> None:
    """Restore the run's own request and its state, since those of `eval` are temporary."""
    if taken(lease := run.lease()):
        run.write_request(owed)
        if status["state"] == State.DONE != run.known_status()["state"]:
            run.tidy()
            run.set_status(State.DONE, step=status.get("step", 0))
        lease.release()


def _samplers(names: list[str] | None) -> list[str] | None:
    """Names of samplers as rows write them.

    Raises:
        ConfigError: one is none.
    """
    try:
        return None if names is None else [Sampler.read(name).text for name in names]
    except ValueError as error:
        raise ConfigError(f"eval --samplers: {error}") from None


def _check_samplers(groups: Iterable[tuple[Request, list[Run]]]) -> None:
    """Refuse samplers that do not suit a run's teacher, its objective's grid or the NFEs.

    Raises:
        ConfigError: with all that is wrong.
    """
    make = GridPlugins()
    wrong: list[str] = []
    for request, runs in groups:
        for name in request.samplers:
            if not any(Sampler.read(name).serves(nfe) for nfe in request.nfe):
                told = ", ".join(map(str, request.nfe))
                wrong.append(f"sampler {name!r} has levels for other numbers of steps than {told}")
        specs = [run.spec for run in runs]
        for spec in specs:
            if teacher := make.teacher(spec.teacher):
                plugins = {"objective": spec.objective}
                make.samplers(request.samplers, plugins, teacher)
        if not make.broken:
            wrong += misfitting_times(request.samplers, request.nfe, specs)
    if wrong := list(dict.fromkeys([*make.broken.values(), *wrong])):
        raise told_at_once(wrong, "eval", "things are wrong")


def _by_request(runs: Iterable[Run], given: Mapping[str, Any]) -> list[tuple[Request, list[Run]]]:
    """Runs that are asked for the same, together, so that `--slots` of them go at a time."""
    groups: list[tuple[Request, list[Run]]] = []
    asked = {key: value for key, value in given.items() if value is not None}
    for run in runs:
        if not (steps := run.budgets_with_weights()):
            print(f"{run.run_id}: no evaluation weights yet, skipped", file=sys.stderr)
            continue
        if run.spec.run_id != run.run_id:  # to open its spec would start another run, from step 0
            print(
                f"{run.run_id}: named by an earlier version of the harness, which is to be used to"
                " evaluate it further; skipped",
                file=sys.stderr,
            )
            continue
        request = replace(run.request, budgets=steps, **asked)
        target = run.spec.train["ema"]
        request = replace(request, emas=[None if r == target else r for r in request.emas])
        for known, members in groups:
            if known == request:
                members.append(run)
                break
        else:
            groups.append((request, [run]))
    return groups
