"""Tables in Markdown files that are updated from reports.

A block is the text between two lines

    <!-- precondbench:begin GRID TABLE [METRIC] -->
    <!-- precondbench:end -->

and is replaced as a whole. The first line names its content, so that one command updates all blocks
of a file, and the source of every number is visible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import ConfigError, nearest
from harness.report.write import Report
from harness.store.tables import TABLES

_MARK = re.compile(r"^[ ]{0,3}<!--\s*precondbench:(\S*)\s*(.*?)\s*-->\s*$")


@dataclass(frozen=True)
class Block:
    """A block: line numbers (from 0) of its two marks, and the words of the first."""

    begin: int
    end: int
    words: list[str]


def fill(text: str, reports: Iterable[Report], name: str) -> tuple[str, int]:
    """Fill every block that belongs to a grid of these reports; return the text and their number.

    Blocks of other grids are left unchanged.

    Raises:
        ConfigError: a mark is unpaired or has unknown words, or no block is of these grids. The
            message names the file (`name`) and the line.
    """
    by_grid = {report.grid: report for report in reports}
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(newline)
    filled = 0
    for block in reversed(_blocks(lines, name)):
        report = by_grid.get(block.words[0])
        if report is not None:
            lines[block.begin + 1 : block.end] = _content(report, block, name)
            filled += 1
    if not filled:
        grid = next(iter(by_grid))
        raise ConfigError(
            f"{name} has no block for {' or '.join(by_grid)}; put these two lines where the table"
            f" belongs: <!-- precondbench:begin {grid} leaderboard -->"
            " and <!-- precondbench:end -->"
        )
    return newline.join(lines), filled


def _blocks(lines: list[str], name: str) -> list[Block]:
    """Every block outside of fenced code, in order."""
    blocks: list[Block] = []
    open_at: int | None = None
    fence = ""
    for number, line in enumerate(lines):
        if ticks := re.match(r"\s*(```+|~~~+)", line):
            if not fence:
                fence = ticks[1]
            elif ticks[1].startswith(fence):
                fence = ""
        mark = _MARK.match(line)
        if mark is None or fence:
            continue
        kind, words = mark[1], mark[2].split()
        where = f"{name}, line {number + 1}"
        if kind == "begin":
            if open_at is not None:
                raise ConfigError(
                    f"{where}: this block begins before that of line {open_at + 1} ends; put"
                    " <!-- precondbench:end --> between them"
                )
            _check(words, where)
            open_at = number
            begun = words
        elif kind == "end":
            if open_at is None:
                raise ConfigError(
                    f"{where}: this block ends and never began; put"
                    " <!-- precondbench:begin GRID TABLE --> before it, or delete the line"
                )
            blocks.append(Block(open_at, number, begun))
            open_at = None
        else:
            raise ConfigError(f"{where}: 'precondbench:{kind}' is neither begin nor end")
    if open_at is not None:
        raise ConfigError(
            f"{name}, line {open_at + 1}: this block never ends; put <!-- precondbench:end -->"
            " after it"
        )
    return blocks


def _check(words: list[str], where: str) -> None:
    if not 2 <= len(words) <= 3:
        raise ConfigError(
            f"{where}: a block names a grid, a table and perhaps a metric, got"
            f" {' '.join(words) or 'nothing'!r}"
        )
    if words[1] not in TABLES:
        raise ConfigError(f"{where}: there is no table {words[1]!r}{nearest(words[1], TABLES)}")


def _content(report: Report, block: Block, name: str) -> list[str]:
    metric = block.words[2] if len(block.words) == 3 else None
    try:
        text = report.text(block.words[1], "md", metric)
    except ConfigError as error:
        raise ConfigError(f"{name}, line {block.begin + 1}: {error}") from None
    return ["", *text.strip().splitlines(), ""]
