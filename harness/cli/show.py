"""`show`: print spec, provenance, status and evaluations of one run; imports no torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import yaml
from tabulate import tabulate

from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, ArtifactError
from harness.store.records import State
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.store.submissions import newest_jobs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `show`."""
    parser.add_argument("run", metavar="RUN", help="a run id, or a unique beginning of one")
    parser.add_argument("--results", default="results", metavar="DIR", help="where the run is")
    parser.add_argument(
        "--log",
        type=int,
        default=0,
        metavar="N",
        help="last N lines of worker.log, and of its job's",
    )


def main(args: argparse.Namespace) -> int:
    """Print spec, provenance, status and evaluations; 1 if one of them cannot be read."""
    run = ResultStore(args.results).existing().run(args.run)
    parts: list[Callable[[], str]] = [
        lambda: _yaml(run.spec.to_json()),
        lambda: _yaml({"provenance": run.origin()}),
        lambda: _yaml({"status": _readable(run.status())}),
        lambda: _rows(run),
    ]
    code = EXIT_DONE
    for part in parts:
        try:
            print(part())
        except ArtifactError as error:
            print(f"error: {error}", file=sys.stderr)
            code = EXIT_CELL_FAILED
    logs = sorted(run.path.glob("worker*.log"))
    handed = newest_jobs(run.results).get(run.run_id)
    if handed is not None:
        submission, job = handed
        starts = sum(event["event"] == "started" for event in submission.events(job))
        print(f"job {job} of the cluster, started {starts} times; {submission.log(job)}")
        logs.append(submission.log(job))
    for log in logs:
        if args.log and log.exists():
            if len(logs) > 1:
                print(f"--- {log.name}")
            print("\n".join(log.read_text(errors="replace").splitlines()[-args.log :]))
    return code


def _yaml(data: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(data))
    return yaml.safe_dump(plain, sort_keys=False).strip()


def _rows(run: Run) -> str:
    rows = [
        [
            *(row.step, row.images, row.nfe, row.metric, row.extractor, row.n, row.reference_n),
            f"{row.value:.6g}",
        ]
        for row in run.rows().values()
    ]
    headers = ["step", "images", "NFE", "metric", "extractor", "n", "reference n", "value"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def _readable(status: dict[str, Any]) -> dict[str, Any]:
    """A status for people: local time, and no phase of what is done."""
    told = {k: v for k, v in status.items() if k != "phase" or status["state"] != State.DONE}
    if "updated" in told:
        at = datetime.fromtimestamp(told["updated"]).astimezone()
        told["updated"] = at.isoformat(sep=" ", timespec="seconds")
    return told
