"""The page's tables: preconditionings as rows, NFEs as columns, every cell with a sort key."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import pandas as pd

from harness.report.page.places import GROUP, Places, groups, records
from harness.report.render import name_problem, name_protocol
from harness.report.speed import LAST
from harness.report.words import area_cell, end_cell, lead_cell, speed_cell, trained_for
from harness.report.write import Report


@dataclass(frozen=True)
class Cell:
    """A table cell: text, small print, sort key (empty: last), and rank.

    In a finished table the key is the place of the cell in its column, best first.
    """

    text: str
    detail: str = ""
    sort: float | str = ""
    rank: str = ""


#: cells by preconditioning and column
Rows: TypeAlias = dict[str, dict[int | str, Cell]]


@dataclass(frozen=True)
class Pivot:
    """One table; `nfe` and `more` are its columns, `rows` its cells."""

    name: str
    problem: int
    protocol: int
    caption: str
    note: str
    nfe: list[int]
    more: list[str]
    rows: Rows


def boards(report: Report, places: Places) -> Iterator[Pivot]:
    """The leaderboard, one table per problem and protocol, best mean rank first."""
    for named, group in groups(report.leaderboard, GROUP):
        lower = bool(group["lower_is_better"].all())
        ordered = group.sort_values(["mean_rank", "precond"], na_position="last", kind="stable")
        rows = _rows(ordered, partial(_board_cell, lower=lower))
        several = group["nfe"].nunique() > 1
        if several:
            _add_overall(rows, group.drop_duplicates("precond"))
        at = f"at {int(group['images'].max()):,} training images"
        better = "lower" if lower else "higher"
        more = ["overall"] if several else []
        yield _pivot("leaderboard", places, named, "", f"{at}; {better} is better", more, rows)


def speeds(report: Report, places: Places) -> Iterator[Pivot]:
    """Training speed, one table per problem, protocol and target."""
    for named, group in groups(report.speed, [*GROUP, "target"]):
        goal = f"{report.baseline}'s last value" if named["target"] == LAST else named["target"]
        rows = _rows(group, lambda row: _cut(speed_cell(row), -row["speedup"]))
        for precond, seconds in group.groupby("precond")["calibration_seconds"].max().items():
            cost = f"{seconds:.1f} s" if seconds else "none"
            rows[str(precond)]["calibration"] = Cell(cost, "", seconds)
        note = trained_for(group)
        yield _pivot("speed", places, named, f"; to reach {goal}", note, ["calibration"], rows)


def leads(report: Report, places: Places) -> Iterator[Pivot]:
    """Leads of every preconditioning and the final quality; one table per problem and protocol."""
    for named, group in groups(report.profile, GROUP):
        first = group.drop_duplicates(["precond", "nfe"])
        rows = _rows(first, partial(_lead_cell, baseline=report.baseline))
        yield _pivot("lead", places, named, "", trained_for(group), [], rows)


def _lead_cell(row: dict[str, Any], baseline: str) -> Cell:
    """The cell of a lead, sorted by where it ends."""
    stretch, _, then = lead_cell(row, baseline).partition(", ")
    end = f"end {end_cell(row)}".replace(" [", "\n[") if not math.isnan(row["end"]) else ""
    further = row["lead_to"] if row["lower_is_better"] else -row["lead_to"]
    detail = "\n".join(filter(None, (then, end)))
    return Cell(stretch, detail, "" if math.isnan(further) else further)


def areas(report: Report, places: Places) -> Iterator[Pivot]:
    """Areas to the baseline's curve, one table per problem and protocol."""
    for named, group in groups(report.area, GROUP):
        rows = _rows(group, lambda row: _cut(area_cell(row), -row["area"]))
        first, last = int(group["images_first"].min()), int(group["images_last"].max())
        note = f"{first:,} to {last:,} training images"
        yield _pivot("area", places, named, "", note, [], rows)


def _pivot(
    name: str,
    places: Places,
    named: dict[str, Any],
    goal: str,
    note: str,
    more: list[str],
    rows: Rows,
) -> Pivot:
    return Pivot(
        name=name,
        problem=places.problem(named),
        protocol=places.protocol(named),
        caption=f"{name_problem(named)}; {name_protocol(named)}{goal}",
        note=note,
        nfe=sorted({key for cells in rows.values() for key in cells if isinstance(key, int)}),
        more=more,
        rows=_placed(rows),
    )


def _placed(rows: Rows) -> Rows:
    """The rows with every sort key replaced by its place in the column; equal keys share one."""
    keys: dict[int | str, set[Any]] = {}
    for cells in rows.values():
        for column, cell in cells.items():
            keys.setdefault(column, set()).add(cell.sort)
    places = {
        column: {key: place for place, key in enumerate(sorted(found - {""}))} | {"": ""}
        for column, found in keys.items()
    }
    return {
        name: {
            column: replace(cell, sort=places[column][cell.sort]) for column, cell in cells.items()
        }
        for name, cells in rows.items()
    }


def _rows(group: pd.DataFrame, cell: Callable[[dict[str, Any]], Cell]) -> Rows:
    """Cells by preconditioning, in the group's order, and NFE."""
    rows: Rows = {}
    for row in records(group):
        rows.setdefault(row["precond"], {})[int(row["nfe"])] = cell(row)
    return rows


def _board_cell(row: dict[str, Any], lower: bool) -> Cell:
    if not row["seeds"]:
        return Cell("—")
    value = row["median"]
    spread = f"{row['low']:.4g} – {row['high']:.4g}" if row["seeds"] > 1 else ""
    ranked = not pd.isna(row["rank"])
    whole = row["coverage"] == f"{row['seeds_planned']} of {row['seeds_planned']}"
    return Cell(
        "diverged" if math.isinf(value) else f"{value:.4g}",
        spread if whole else "; ".join(filter(None, (spread, row["coverage"]))),
        value if lower else -value,
        f"{row['rank']}{'=' if row['tied'] else ''}" if ranked else "",
    )


def _add_overall(rows: Rows, board: pd.DataFrame) -> None:
    """The order of the mean rank over NFEs; `board` has one row of each preconditioning."""
    shared = board["combined_rank"].value_counts()
    for row in records(board[board["combined_rank"].notna()]):
        rank, mean = row["combined_rank"], float(row["mean_rank"])
        tied = "=" if shared[rank] > 1 else ""
        rows[row["precond"]]["overall"] = Cell(f"{rank}{tied}", f"mean rank {mean:.2g}", mean)


def _cut(text: str, sort: float) -> Cell:
    """A cell of the text tables, its interval in small print."""
    value, bracket, rest = text.partition(" [")
    return Cell(value, (bracket + rest).strip(), "" if math.isnan(sort) else sort)
