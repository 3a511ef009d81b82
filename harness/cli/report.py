"""`report`: the tables of a results folder, read from its files alone; imports no torch."""

from __future__ import annotations

import argparse

from harness.errors import EXIT_DONE, ConfigError
from harness.report.write import build_report, write_tables
from harness.store.store import ResultStore
from harness.store.tables import grids

TABLES = ("leaderboard", "speed", "coverage")
EXTENSIONS = {"text": "txt", "md": "md", "csv": "csv", "latex": "tex"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `report`."""
    parser.add_argument("results", nargs="?", default="results", metavar="RESULTS")
    parser.add_argument("--grid", metavar="NAME", help="one grid only (default: all)")
    parser.add_argument("--format", choices=EXTENSIONS, default="text")


def main(args: argparse.Namespace, tables: tuple[str, ...] = TABLES) -> int:
    """Rewrite RESULTS/tables and print the tables in the chosen format."""
    store = ResultStore(args.results).existing()
    names = [args.grid] if args.grid else grids(store)
    if not names:
        raise ConfigError(f"{store.root}: no grid was run into this folder yet")
    for name in names:
        report = build_report(store, name)
        write_tables(store, name)
        for table in tables:
            print(report.text(table, EXTENSIONS[args.format]))
    return EXIT_DONE
