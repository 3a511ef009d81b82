"""`leaderboard`: the leaderboard alone; imports no torch."""

from __future__ import annotations

import argparse

from harness.cli import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `report`."""
    report.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Print it in the chosen format."""
    return report.main(args, tables=("leaderboard",))
