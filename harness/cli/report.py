"""`report`: the tables of one results folder or of several, from files alone; imports no torch."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import EXIT_CELL_FAILED, EXIT_DONE, ConfigError, nearest
from harness.store.store import ResultStore
from harness.store.tables import TABLES, grids, kept_tables, no_grid, sources

if TYPE_CHECKING:
    from harness.report.write import Report

EXTENSIONS = {"text": "txt", "md": "md", "csv": "csv", "latex": "tex"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `report`."""
    add_source_arguments(parser)
    parser.add_argument(
        "--table",
        choices=TABLES,
        action="append",
        help="print this table only; repeat for more (default: all)",
    )
    parser.add_argument(
        "--format",
        choices=[*EXTENSIONS, "html"],
        default="text",
        help="html: one self-contained page per grid, report.html beside the tables",
    )
    parser.add_argument(
        "--plots", action="store_true", help="draw every figure, svg and png, into plots/ there too"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write every table in every format into DIR/<grid>"
        " (default: RESULTS/tables/<grid> of a single folder)",
    )
    parser.epilog = (
        "Several folders, of several machines or people, are read as one: cells of grids of the"
        "\nsame name are united, equal numbers of one run count once. Where two folders disagree"
        "\nabout a run, the first one named is believed for that run and the conflict is reported."
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Which numbers, compared how: the same for every verb that reads results."""
    parser.add_argument(
        "results", nargs="*", default=["results"], metavar="RESULTS", help="default: results"
    )
    parser.add_argument("--grid", metavar="NAME", help="one grid only (default: all)")
    parser.add_argument(
        "--baseline",
        metavar="PRECOND",
        help="compare with this preconditioning, not the grid's baseline",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="a further value to reach in the training-speed table; repeat for more",
    )


def main(args: argparse.Namespace) -> int:
    """Print the tables in the chosen format and write them in every format; page and plots too."""
    if args.format == "html" and args.table:
        raise ConfigError("report: the page has every table; leave --table out of --format html")
    if (args.format == "html" or args.plots) and _beside(args) is None:
        raise ConfigError(
            "report: page and plots of several folders, or with --baseline or --target, have no"
            " folder of their own; say where with --out DIR"
        )
    if kept := _kept(args):
        print("\n".join(kept))
        return EXIT_DONE
    stores, names = _asked(args)
    made_from = {name: sources(stores[0], name) for name in (names if _at_home(args) else ())}
    reports = build(args)
    for report in reports if args.format != "html" else ():
        for table in args.table or TABLES:
            print(report.text(table, EXTENSIONS[args.format]))
        if args.format == "csv" or (args.table and "coverage" not in args.table):
            tell(report)
    for report in reports:
        if beside := _beside(args):
            _write(report, stores[0], made_from.get(report.grid), beside / report.grid, args)
    return conclude(reports)


def _write(
    report: Report,
    store: ResultStore,
    made_from: dict | None,
    folder: Path,
    args: argparse.Namespace,
) -> None:
    """All tables, and what was asked for beside them; the path of each of those is printed."""
    from harness.report.write import write_report, write_tables

    if made_from is None:
        write_report(report, folder)
    else:
        write_tables(store, report, made_from)
    if args.format == "html":
        from harness.report.page.build import write_page

        print(write_page(report, folder / "report.html"))
    if args.plots:
        from harness.report.plots.draw import write_plots

        for path in write_plots(report, folder / "plots"):
            print(path)


def _kept(args: argparse.Namespace) -> list[str] | None:
    """What is to be printed, if nothing changed since it was written beside the runs."""
    tables = args.table or TABLES
    if not _at_home(args) or args.plots or args.format in ("html", "csv"):
        return None
    if "coverage" not in tables:  # which holds the notes
        return None
    (store,), names = _asked(args)
    kept = [kept_tables(store, name, EXTENSIONS[args.format]) for name in names]
    return [found[table] for found in kept if found for table in tables] if all(kept) else None


def build(args: argparse.Namespace) -> list[Report]:
    """The report of every grid asked for.

    Raises:
        ConfigError: a folder holds no results, or no grid, preconditioning or metric has such a
        name.
    """
    from harness.report.write import build_report

    stores, names = _asked(args)
    targets = _targets(args.target)
    return [build_report(stores, name, args.baseline, targets) for name in names]


def _asked(args: argparse.Namespace) -> tuple[list[ResultStore], list[str]]:
    """The results folders, and the grids in them that the command is about."""
    stores = [ResultStore(root).existing() for root in args.results]
    known = list(dict.fromkeys(name for store in stores for name in grids(store)))
    if not known:
        raise no_grid(stores)
    if args.grid and args.grid not in known:
        where = ", ".join(str(store.root) for store in stores)
        raise ConfigError(f"{where} has no grid {args.grid!r}{nearest(args.grid, known)}")
    return stores, [args.grid] if args.grid else known


def tell(report: Report) -> None:
    """The notes of a report on stderr, where what is printed does not show them."""
    for note in report.notes:
        print(f"note: {report.grid}: {note}", file=sys.stderr)


def conclude(reports: list[Report]) -> int:
    """0, or 1 where the files of a run could not be read."""
    return EXIT_CELL_FAILED if any(report.unreadable for report in reports) else EXIT_DONE


def _at_home(args: argparse.Namespace) -> bool:
    """Whether the tables asked for are the grids' own, which lie beside the runs."""
    return not (args.out or len(args.results) > 1 or args.baseline or args.target)


def _beside(args: argparse.Namespace) -> Path | None:
    """The folder of the grids' tables: --out, or beside the runs if they are the grids' own."""
    if args.out:
        return Path(args.out)
    return Path(args.results[0]) / "tables" if _at_home(args) else None


def _targets(words: list[str]) -> dict[str, list[float]]:
    targets: dict[str, list[float]] = {}
    for word in words:
        metric, _, value = word.partition("=")
        try:
            if not math.isfinite(goal := float(value)):
                raise ValueError
            targets.setdefault(metric, []).append(goal)
        except ValueError:
            raise ConfigError(f"--target {word}: give METRIC=VALUE, e.g. frechet=10") from None
    return targets
