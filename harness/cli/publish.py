"""`publish`: a grid's runs and tables in a folder that can be committed; imports no torch."""

from __future__ import annotations

import argparse

from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, ConfigError, nearest
from harness.store.store import ResultStore
from harness.store.tables import grids, no_grid, sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `publish`."""
    parser.add_argument(
        "results", nargs="?", default="results", metavar="RESULTS", help="default: results"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="e.g. results/my-study")
    parser.add_argument(
        "--grid", action="append", metavar="NAME", help="repeat for more (default: all of them)"
    )
    parser.add_argument(
        "--with-plugins",
        action="store_true",
        help="copy the files of plugins from outside as well, as they were when runs were made",
    )
    parser.epilog = (
        "Copied are rows, logs, coefficients and provenance of every run, pictures of the first"
        "\nseed, and no weights. The tables are computed anew from the copies:"
        "\n`python -m harness report DIR` prints what you publish."
    )


def main(args: argparse.Namespace) -> int:
    """Copy, compute the tables from the copies, and say what is there."""
    from harness.report.write import build_report, write_tables
    from harness.store.publish import copy_grid, copy_plugins

    store, target = ResultStore(args.results).existing(), ResultStore(args.out)
    if store.root.resolve() == target.root.resolve():
        raise ConfigError("publish: --out must be another folder than RESULTS")
    known = grids(store)
    if not known:
        raise no_grid([store])
    for name in args.grid or ():
        if name not in known:
            raise ConfigError(f"{store.root} has no grid {name!r}{nearest(name, known)}")
    target.prepare(("runs", "tables"))
    files = copy_plugins(store, args.grid or known, target) if args.with_plugins else []
    unreadable = False
    for name in args.grid or known:
        copied, planned = copy_grid(store, name, target)
        made_from = sources(target, name)
        report = build_report(target, name)
        write_tables(target, report, made_from)
        unreadable |= report.unreadable
        print(f"{name}: {copied} of {planned} runs -> {target.root / 'tables' / name}")
    if files:
        flags = " ".join(f"--plugin {path}" for path in files)
        print(f"plugins, to run these cells again: {flags}")
    elif args.with_plugins:
        print("plugins: none, all are the harness's own")
    return EXIT_CELL_FAILED if unreadable else EXIT_DONE
