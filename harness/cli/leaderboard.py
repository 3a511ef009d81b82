"""`leaderboard`: print the leaderboard, or update tables in a Markdown file; imports no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.cli.report import EXTENSIONS, add_source_arguments, build, conclude, tell
from harness.errors import ConfigError
from harness.store.files import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `report` that select results, and --update."""
    add_source_arguments(parser)
    parser.add_argument("--format", choices=EXTENSIONS, default="text")
    parser.add_argument(
        "--update",
        metavar="FILE.md",
        help="fill the blocks of a Markdown file that name tables of these results",
    )
    parser.epilog = (
        "A block names a grid, one of its tables and, if it likes, one metric:\n\n"
        "  <!-- precondbench:begin quickstart leaderboard frechet -->\n"
        "  <!-- precondbench:end -->\n\n"
        "--update replaces what is between the two lines. Blocks of other grids stay as they are."
    )


def main(args: argparse.Namespace) -> int:
    """Print the leaderboard in the chosen format, or fill a file's blocks."""
    reports = build(args)
    for report in reports:
        tell(report)
    if args.update is None:
        for report in reports:
            print(report.text("leaderboard", EXTENSIONS[args.format]))
        return conclude(reports)
    from harness.report.blocks import fill

    path = Path(args.update)
    if not path.is_file():
        raise ConfigError(f"--update {path}: there is no such file")
    before = path.read_bytes().decode()
    after, filled = fill(before, reports, str(path))
    if after != before:
        write_atomic(path, after)
    change = "changed" if after != before else "was up to date"
    print(f"{path}: {filled} block{'s' if filled > 1 else ''}, {change}")
    return conclude(reports)
