"""`eval`: more numbers from weights that are already there; nothing is trained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from harness.config.schema import Launch
from harness.errors import (
    EXIT_CELL_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    ConfigError,
    HarnessError,
)
from harness.registry import registry
from harness.runner.scheduler import Scheduler, told
from harness.store.lease import taken
from harness.store.records import Request, State
from harness.store.store import ResultStore, Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `eval`."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run ids (default: every run)")
    parser.add_argument("--results", default="results", metavar="DIR", help="where the runs are")
    parser.add_argument("--nfe", type=int, nargs="+", metavar="N", help="numbers of steps")
    parser.add_argument("--metrics", nargs="+", metavar="NAME")
    parser.add_argument("--extractors", nargs="+", metavar="NAME")
    parser.add_argument("--samples", type=int, metavar="N")
    parser.add_argument("--slots", type=int, default=1, help="runs at a time")


def main(args: argparse.Namespace) -> int:
    """Evaluate every stored budget of the runs; print the new rows."""
    store = ResultStore(args.results).existing()
    runs = [store.run(run_id) for run_id in args.runs] or store.runs()
    for kind, names in (("metric", args.metrics), ("extractor", args.extractors)):
        for name in names or []:
            registry.get(kind, name)
    if min(args.nfe or [1]) < 1 or (args.samples or 2) < 2 or args.slots < 1:
        raise ConfigError("eval: --nfe and --slots must be 1 or more, --samples 2 or more")
    given = {
        "nfe": args.nfe,
        "metrics": args.metrics,
        "extractors": args.extractors,
        "samples": args.samples,
    }
    runs, code = _readable(runs)
    before = {run.run_id: set(run.rows()) for run in runs}
    for request, group in _by_request(runs, given):
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
                print(
                    f"{run.run_id}  step {row.step}  NFE {row.nfe}  {row.metric}"
                    f" ({row.extractor}, n={row.n})  {row.value:.6g}"
                )
    print(f"{count} new numbers of {len(runs)} runs")
    return code


def _readable(runs: Iterable[Run]) -> tuple[list[Run], int]:
    """Runs whose files can be read, and 1 if others are not among them, which is told."""
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
    """Put back what the run owes and that it is done: what was asked here is no part of that."""
    if taken(lease := run.lease()):
        run.ask(owed)
        if status["state"] == State.DONE != run.known_status()["state"]:
            run.tidy()
            run.set_status(State.DONE, step=status.get("step", 0))
        lease.release()


def _by_request(runs: Iterable[Run], given: Mapping[str, Any]) -> list[tuple[Request, list[Run]]]:
    """Runs that are asked for the same, together, so that `--slots` of them go at a time."""
    groups: list[tuple[Request, list[Run]]] = []
    asked = {key: value for key, value in given.items() if value is not None}
    for run in runs:
        steps = sorted(int(path.stem.removeprefix("step-")) for path in run.path.glob("ema/step-*"))
        if not steps:
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
        for known, members in groups:
            if known == request:
                members.append(run)
                break
        else:
            groups.append((request, [run]))
    return groups
