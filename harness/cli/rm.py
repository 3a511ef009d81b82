"""`rm`: delete runs, with their weights and numbers."""

from __future__ import annotations

import argparse
import shutil

from harness.config.schema import human_size
from harness.errors import EXIT_DONE, ConfigError
from harness.store.files import size_of
from harness.store.store import ResultStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rm`."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run id, or a unique beginning of one"
    )
    parser.add_argument("--results", default="results", metavar="DIR", help="where the runs are")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and stop")


def main(args: argparse.Namespace) -> int:
    """Delete the folders of runs; all are found before one goes, none that is worked on."""
    store = ResultStore(args.results).existing()
    runs = list({run.run_id: run for run in map(store.run, args.runs)}.values())
    for run in runs:
        if run.is_locked():
            raise ConfigError(f"rm: {run.run_id} is being worked on; stop that first")
    for run in runs:
        size = human_size(size_of(run.path))
        if args.dry_run:
            print(f"would delete {run.path} ({size})")
            continue
        (run.path / "spec.json").unlink()  # without which it is a run to nobody
        shutil.rmtree(run.path)
        print(f"deleted {run.path} ({size})")
    if not args.dry_run:
        print("its tables keep their numbers until the next `report` or `run`")
    return EXIT_DONE
