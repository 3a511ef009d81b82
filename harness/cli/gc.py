"""`gc`: delete artifacts and checkpoints in a results folder that no run needs."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.config.schema import human_size
from harness.errors import EXIT_DONE, HarnessError
from harness.store.files import read_json, size_of
from harness.store.records import State
from harness.store.store import ResultStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `gc`."""
    parser.add_argument("results", nargs="?", default="results", metavar="RESULTS")
    parser.add_argument(
        "--checkpoints",
        action="store_true",
        help="training states of finished runs too: evaluation weights stay, but a later budget"
        " trains that run from step 0",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and stop")


def main(args: argparse.Namespace) -> int:
    """Delete artifacts of teachers and data that no run has, and checkpoints if asked."""
    store = ResultStore(args.results).existing()
    going = [*_artifacts(store), *(_checkpoints(store) if args.checkpoints else ())]
    total = 0
    for paths in going:
        size = sum(size_of(path) for path in paths)
        total += size
        print(f"{'would delete' if args.dry_run else 'deleted'} {paths[0]} ({human_size(size)})")
        for path in () if args.dry_run else paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    print(f"{human_size(total)} in all" if going else "nothing that no run needs")
    return EXIT_DONE


def _artifacts(store: ResultStore) -> Iterator[list[Path]]:
    """Calibrations, fits, ODE solutions and features of what no run here has; made anew if asked.

    A file that does not say what it was made from stays, as does everything while a run's spec
    cannot be read.
    """
    needed = {digest for run in store.runs() for digest in run.spec.digests.values()}
    artifacts = store.root / "artifacts"
    for note in sorted((*artifacts.glob("*/*.json"), *artifacts.glob("*/*.parts/key.json"))):
        try:
            key = read_json(note)["key"]
        except (HarnessError, KeyError, TypeError):
            continue
        made_of = {key.get("teacher"), key.get("dataset")} - {None}
        if made_of and not made_of <= needed:
            parts = note.parent.suffix == ".parts"  # of a calibration that was interrupted
            paths = [note.parent] if parts else [note.with_suffix(".safetensors"), note]
            yield [path for path in paths if path.exists()]


def _checkpoints(store: ResultStore) -> Iterator[list[Path]]:
    """Of runs that are done and nobody works on."""
    for run in store.runs():
        done = run.known_status()["state"] == State.DONE
        if done and run.checkpoints.is_dir() and not run.is_locked():
            yield [run.checkpoints]
