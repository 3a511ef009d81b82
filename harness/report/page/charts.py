"""Numbers behind the page's charts (charts.js draws them), as plain JSON."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from harness.report.curves import curve_points
from harness.report.page.places import GROUP, Places, groups, records
from harness.report.plots.style import COLOURS, PlotStyle
from harness.report.profile import NEAR
from harness.report.speed import LAST
from harness.report.words import images_cell, lead_cell, speed_cell
from harness.report.write import Report

Chart = dict[str, Any]


def charts(report: Report, places: Places, looks: dict[str, PlotStyle]) -> dict[str, list[Chart]]:
    """Chart data: `curves`, `speeds` and `levels`, with indices of looks."""
    order = {name: number for number, name in enumerate(looks)}
    points = curve_points(report.rows, report.cells)
    return {
        "curves": [
            _curves(named, group, places, order)
            for named, group in groups(points, [*GROUP, "nfe"], sort=True)
        ],
        "speeds": [
            _bars(named, group, places, order)
            for named, group in groups(report.speed, [*GROUP, "target", "nfe"])
        ],
        "levels": [
            _levels(named, group, places, order)
            for named, group in groups(report.profile, [*GROUP, "nfe"])
            if not group["level"].isin((LAST, NEAR)).all()  # all diverged: there is no quality
        ],
    }


def drawn(look: PlotStyle) -> Chart:
    """A look as charts.js draws it."""
    return {
        "name": look.legend,
        "colour": f"var(--c{COLOURS.index(look.colour)})",
        "marker": look.marker,
        "dash": list(look.dash),
        "ring": not look.filled,
    }


def _curves(
    named: dict[str, Any], points: pd.DataFrame, places: Places, order: dict[str, int]
) -> Chart:
    """Quality of every preconditioning at one NFE, budget by budget."""
    lines = {}
    for precond, curve in points.groupby("precond", sort=False):
        columns = ("images", "seconds", "median", "low", "high", "seeds")
        values = {column: [_number(value) for value in curve[column]] for column in columns}
        lines[order[str(precond)]] = {"look": order[str(precond)], **values}
    return {
        "problem": places.problem(named),
        "protocol": places.protocol(named),
        "nfe": int(named["nfe"]),
        "metric": named["metric"],
        "lower": bool(points["lower_is_better"].all()),
        "lines": [lines[number] for number in sorted(lines)],
    }


def _bars(
    named: dict[str, Any], speed: pd.DataFrame, places: Places, order: dict[str, int]
) -> Chart:
    """Speed-ups of every preconditioning at one NFE, to one target."""
    bars = {
        order[row["precond"]]: {
            "look": order[row["precond"]],
            "told": speed_cell(row),
            "bound": row["bound"],
            "seeds": int(row["seeds"]),
            "value": _number(row["speedup"]),
            "low": _number(row["speedup_low"]),
            "high": _number(row["speedup_high"]),
        }
        for row in records(speed)
    }
    return {
        "problem": places.problem(named),
        "protocol": places.protocol(named),
        "nfe": int(named["nfe"]),
        "target": "last" if named["target"] == LAST else named["target"],
        "bars": [bars[number] for number in sorted(bars)],
    }


def _levels(
    named: dict[str, Any], profile: pd.DataFrame, places: Places, order: dict[str, int]
) -> Chart:
    """Speed-ups of every preconditioning at one NFE by level; the baseline's are its images."""
    common = records(profile[~profile["level"].isin((LAST, NEAR))])
    mine: dict[int, list[dict[str, Any]]] = {}
    for row in common:
        mine.setdefault(order[row["precond"]], []).append(row)
    base = mine.pop(0)  # the baseline has the first look
    last = profile[profile["level"] == LAST].iloc[0]
    return {
        "problem": places.problem(named),
        "protocol": places.protocol(named),
        "nfe": int(named["nfe"]),
        "metric": named["metric"],
        "lower": bool(last["lower_is_better"]),
        "levels": [_number(row["target_value"]) for row in base],
        "images": [images_cell(row) for row in base],
        "last": _number(last["target_value"]),
        "lines": [
            {
                "look": number,
                "value": [_number(row["speedup"], 4) for row in rows],
                "low": [_number(row["speedup_low"], 4) for row in rows],
                "high": [_number(row["speedup_high"], 4) for row in rows],
                "bound": [row["bound"] for row in rows],
                "told": [speed_cell(row) for row in rows],
                "to": _number(rows[0]["lead_to"]),
                "then": rows[0]["lead_then"],
                "leads": lead_cell(rows[0], base[0]["precond"]),
            }
            for number, rows in sorted(mine.items())
        ],
    }


def _number(value: Any, digits: int = 6) -> float | str | None:
    """A number for JSON: null for nan, and the string that JavaScript parses as infinity.

    Four digits are enough for what is only drawn, six for what is read off with four.
    """
    value = float(value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(f"{value:.{digits}g}")
