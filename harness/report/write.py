"""From frames to files: tables/<grid>/{leaderboard,speed,coverage}.{csv,md,tex,txt}."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness.report.frame import PROBLEM, PROTOCOL, load_cells, load_rows, same_coefficients
from harness.report.leaderboard import coverage, leaderboard
from harness.report.speed import speed_table
from harness.store.files import write_atomic
from harness.store.store import ResultStore
from harness.store.tables import load_matrix

FORMATS = {"txt": "simple", "md": "github", "tex": "latex_booktabs"}


@dataclass(frozen=True)
class Report:
    """The three tables of a grid in long form, as the csv files hold them."""

    grid: str
    baseline: str
    leaderboard: pd.DataFrame
    speed: pd.DataFrame
    coverage: pd.DataFrame

    def text(self, table: str, extension: str = "txt") -> str:
        """One table for people (txt, md, tex) or for programs (csv)."""
        if extension == "csv":
            frame: pd.DataFrame = getattr(self, table)
            return str(frame.to_csv(index=False))
        render = {"leaderboard": _board_text, "speed": _speed_text, "coverage": _coverage_text}
        return render[table](self, FORMATS[extension])


def build_report(store: ResultStore, grid: str) -> Report:
    """Read a grid's runs and compute its tables; imports no torch."""
    matrix = load_matrix(store, grid)
    rows, cells = load_rows(store, matrix), load_cells(store, matrix)
    marks = same_coefficients(store, cells)
    settings: dict[str, Any] = matrix["grid"]["report"]
    return Report(
        grid=grid,
        baseline=settings["baseline"],
        leaderboard=leaderboard(rows, cells, marks),
        speed=speed_table(rows, cells, settings["baseline"], settings["targets"], marks),
        coverage=coverage(cells, matrix["skips"]),
    )


def write_tables(store: ResultStore, grid: str) -> str:
    """Write every table in every format; return the text of leaderboard and speed table."""
    report = build_report(store, grid)
    folder = store.root / "tables" / grid
    for table in ("leaderboard", "speed", "coverage"):
        for extension in (*FORMATS, "csv"):
            write_atomic(folder / f"{table}.{extension}", report.text(table, extension))
    return f"{report.text('leaderboard')}\n{report.text('speed')}\ntables: {folder}"


def _board_text(report: Report, style: str) -> str:
    """Strategies down, NFEs across: median [low, high], rank 1 marked with *."""
    board = report.leaderboard
    if board.empty:
        return "No evaluation yet: the leaderboard is empty.\n"
    parts = []
    for key, group in board.groupby([*PROBLEM, *PROTOCOL], sort=False):
        better = "lower" if group["lower_is_better"].all() else "higher"
        more = f"at {int(group['images'].max()):,} images; {better} is better"
        title = _title("Leaderboard", key, more)
        parts.append(title + _pivot(group, _board_cell, style))
    note = "Median over seeds [lowest, highest]; * best of the complete rows."
    return "\n".join([*parts, note, ""])


def _speed_text(report: Report, style: str) -> str:
    """Strategies down, NFEs across: speed-up over the baseline, median [low, high] over seeds."""
    speed = report.speed
    if speed.empty:
        return f"No training-speed table: no seed of {report.baseline!r} is complete.\n"
    parts = []
    for key, group in speed.groupby([*PROBLEM, *PROTOCOL, "target"], sort=False):
        title = _title("Training speed", key[:-1], f"to reach {key[-1]} value ({report.baseline})")
        parts.append(title + _pivot(group, _speed_cell, style, _cost_columns(group)))
    note = (
        f"Speed-up = images {report.baseline} needs / images the strategy needs, paired by seed:"
        " median [lowest, highest].\n< never reached within the budgets (upper bound);"
        " > the baseline never did; ? neither did."
    )
    return "\n".join([*parts, note, ""])


def _coverage_text(report: Report, style: str) -> str:
    return (
        tabulate(report.coverage.fillna(""), headers="keys", tablefmt=style, showindex=False) + "\n"
    )


def _pivot(group: pd.DataFrame, cell: Any, style: str, more: pd.DataFrame | None = None) -> str:
    names = group.drop_duplicates("precond").set_index("precond")["same_as"]
    rows = []
    for precond, twin in names.items():
        mine = group[group["precond"] == precond].set_index("nfe")
        row = {"precond": f"{precond} (= {twin})" if twin else precond}
        row |= {f"NFE {nfe}": cell(mine.loc[nfe]) for nfe in sorted(mine.index)}
        if more is not None:
            row |= more.loc[precond].to_dict()
        rows.append(row)
    return (
        tabulate(rows, headers="keys", tablefmt=style, missingval="—", disable_numparse=True) + "\n"
    )


def _board_cell(row: Any) -> str:
    star = "*" if not pd.isna(row["rank"]) and row["rank"] == 1 else ""
    partial = "" if row["seeds"] == row["seeds_planned"] else f" ({row['seeds']} seeds)"
    return f"{row['median']:.4g}{star} [{row['low']:.4g}, {row['high']:.4g}]{partial}"


def _speed_cell(row: Any) -> str:
    if math.isinf(row["speedup"]):
        return "from the start"
    some = (
        ""
        if row["speedup_low"] == row["speedup_high"]
        else (f" [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]")
    )
    return f"{row['bound']}{row['speedup']:.2f}{some}"


def _cost_columns(group: pd.DataFrame) -> pd.DataFrame:
    """Calibration seconds, beside the speed-ups that do not include them."""
    cost = group.groupby("precond")["calibration_seconds"].max()
    return pd.DataFrame({"calibration": cost.map(lambda s: f"{s:.1f} s" if s else "none")})


def _title(what: str, key: Any, more: str) -> str:
    named = dict(zip([*PROBLEM, *PROTOCOL], key, strict=True))
    problem = f"{named['teacher']} / {named['objective']} / {named['dataset']}"
    protocol = f"{named['metric']}, {named['extractor']}, n={named['n']}"
    if named["reference_n"] != named["n"]:
        protocol += f" against {named['reference_n']}"
    return f"\n{what}: {problem}; {protocol}; {more}\n\n"
