"""`status`: one line per run of a results folder; imports no torch."""

from __future__ import annotations

import argparse
import time

from tabulate import tabulate

from harness.errors import EXIT_DONE, HarnessError
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.visible import counted, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `status`."""
    parser.add_argument(
        "results", nargs="?", default="results", metavar="RESULTS", help="default: results"
    )


def main(args: argparse.Namespace) -> int:
    """Print state, step, number of evaluations and last sign of life of every run."""
    rows, states = [], []
    for run in ResultStore(args.results).existing().runs():
        try:
            rows.append(_row(run))
        except HarnessError as error:
            rows.append([run.run_id, "unreadable", "", "", "", visible(str(error))])
        states.append(rows[-1][1])
    headers = ["run", "state", "step", "numbers", "seen", "reason"]
    print(tabulate(rows, headers=headers, disable_numparse=True))
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"\n{counted(len(rows), 'run')}: {counts or 'none'}")
    return EXIT_DONE


def _row(run: Run) -> list[str]:
    status, _ = run.status(), run.spec  # which has to be whole, or `run` writes it anew
    state, reason = status["state"], status.get("reason", "")
    if state == "running" and not run.is_locked():
        state, reason = "interrupted", "its runner is gone; `run` continues it"
    elif state == "running" and status.get("phase"):
        state = status["phase"]  # preparing, training, evaluating
        reason = reason or status.get("detail", "")
    if status.get("attempts", 1) > 1:
        reason = f"{reason} (attempt {status['attempts']})".strip()
    seen = _ago(time.time() - status["updated"]) if "updated" in status else ""
    numbers = str(len(run.rows()))
    return [run.run_id, state, str(status.get("step", 0)), numbers, seen, visible(reason)]


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
