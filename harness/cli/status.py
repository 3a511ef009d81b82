"""`status`: one line per run of a results folder; imports no torch."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from harness.errors import EXIT_DONE, HarnessError
from harness.store.store import ResultStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `status`."""
    parser.add_argument("results", nargs="?", default="results", metavar="RESULTS")


def main(args: argparse.Namespace) -> int:
    """Print state, step and number of evaluations of every run."""
    rows = []
    for run in ResultStore(args.results).existing().runs():
        try:
            status = run.status()
            state = status["state"]
            if state == "running" and not run.is_locked():
                state = "interrupted"  # its runner is gone; `run` continues it
            rows.append(
                [
                    run.run_id,
                    state,
                    status.get("step", 0),
                    len(run.rows()),
                    status.get("reason", ""),
                ]
            )
        except HarnessError as error:
            rows.append([run.run_id, "unreadable", "", "", str(error)])
    print(tabulate(rows, headers=["run", "state", "step", "numbers", "reason"]))
    return EXIT_DONE
