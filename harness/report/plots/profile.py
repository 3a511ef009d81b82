"""Speed-up against the quality to reach, one panel per NFE."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.report.plots.style import Plot, PlotStyle, legend_below, panels, plain, times
from harness.report.profile import NEAR
from harness.report.speed import LAST
from harness.report.words import lead_cell, level

#: ticks of the speed-up axis, by how far apart its ends are
TICKS = {
    6.0: (0.5, 0.8, 1, 1.25, 1.5, 2, 3),
    40.0: (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16),
    math.inf: (1 / 32, 1 / 8, 1, 8, 32),
}
#: characters of a quality beyond which four of them do not fit under a panel
LONG = 6
#: a speed-up further from 1 than this is drawn there
FURTHEST = 64.0


def speed_profile(
    profile: pd.DataFrame, styles: dict[str, PlotStyle], title: str, name: str
) -> Plot:
    """Median speed-up and its interval, from easy quality levels (left) to hard ones (right).

    `profile` is of one problem and protocol. Triangles are bounds: up means at least, down at most.
    A tick at the lower edge marks the end of a lead, a dotted line the baseline's last value.
    """
    steps = sorted(profile["nfe"].unique())
    baseline = next(iter(styles))
    metric = plain(str(profile["metric"].iloc[0]))
    figure, axes = panels(len(steps), 2.3, 2.1)
    for axis, nfe in zip(axes, steps, strict=True):
        mine = profile[profile["nfe"] == nfe]
        levels = mine[~mine["level"].isin((LAST, NEAR))]
        limits = _limits(levels)
        for precond, style in styles.items():
            rows = levels[levels["precond"] == precond].to_dict("records")
            if rows and precond != baseline:
                _line(axis, rows, style, *limits)
        _axes(axis, levels["target_value"].drop_duplicates().tolist(), *limits)
        axis.axvline(
            mine[mine["level"] == LAST]["target_value"].iloc[0],
            color="#606060",
            lw=0.8,
            linestyle=(0, (1, 3)),
        )
        axis.set_title(f"NFE {nfe}")
        axis.set_xlabel(f"{metric} to reach")
    legend_below(figure, axes, styles)
    figure.supylabel(f"speed-up over {plain(baseline)}; harder to the right", fontsize=9)
    return Plot(name, title, _in_words(profile, baseline), figure)


def _line(axis: Any, rows: list[dict[str, Any]], style: PlotStyle, low: float, high: float) -> None:
    """Draw one of them: solid where the value is known, triangles and a thin line for bounds."""
    line = style.line()
    label = plain(style.legend)
    axis.plot([], [], label=label, **line)
    for row, after in pairwise(rows):
        ends = [row["target_value"], after["target_value"]]
        values = [min(max(each["speedup"], low), high) for each in (row, after)]
        if not row["bound"] and not after["bound"]:
            axis.plot(ends, values, **(line | {"marker": ""}))
            band = [[each[key] for each in (row, after)] for key in ("speedup_low", "speedup_high")]
            axis.fill_between(ends, *band, color=style.colour, alpha=0.15, lw=0)
        elif row["bound"] == after["bound"]:
            axis.plot(ends, values, color=style.colour, lw=0.7, linestyle=":")
    for k, row in enumerate(rows):
        marker = {">": "^", "<": "v", "": line["marker"] if k % 3 == 0 else ""}.get(row["bound"])
        if marker:
            hollow = {"markerfacecolor": "white", "markersize": 4} if row["bound"] else {}
            value = min(max(row["speedup"], low), high)
            axis.plot(row["target_value"], value, **(line | {"marker": marker} | hollow))
    if rows[0]["lead_then"]:
        to = rows[0]["lead_to"]
        axis.axvline(to, 0, 0.07, color=style.colour, lw=2)


def _axes(axis: Any, levels: list[float], low: float, high: float) -> None:
    """Set up axes: evenly spaced levels from easy to hard, four of them labelled; log speed-ups."""
    axis.axhline(1, color="#000000", lw=0.8)
    axis.set_yscale("log")
    axis.set_ylim(low / 1.1, high * 1.1)
    ticks = next(ticks for limit, ticks in TICKS.items() if high / low < limit)
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: times(value)))
    if len(levels) < 2:
        return
    first, last = levels[0], levels[-1]
    if min(first, last) > 0:
        axis.set_xscale("log")
        axis.set_xlim(first * (first / last) ** 0.04, last * (last / first) ** 0.04)
    else:
        axis.set_xlim(first + 0.04 * (first - last), last + 0.04 * (last - first))
    shown = levels[:: (len(levels) - 1) // 3]
    if max(len(level(value)) for value in shown) > LONG:
        shown = levels[:: (len(levels) - 1) // 2]
    axis.set_xticks(shown, [level(value) for value in shown])
    axis.xaxis.set_minor_locator(NullLocator())


def _limits(profile: pd.DataFrame) -> tuple[float, float]:
    """Limits of the axis: all finite speed-ups and interval ends, at least 1/1.25 to 1.25."""
    values = profile[["speedup", "speedup_low", "speedup_high"]].to_numpy().ravel()
    finite = [value for value in values if 0 < value < math.inf]
    low, high = min([*finite, 0.8]), max([*finite, 1.25])
    return max(low, 1 / FURTHEST), min(high, FURTHEST)


def _in_words(profile: pd.DataFrame, baseline: str) -> str:
    first = profile.drop_duplicates(["precond", "nfe"])
    first = first[(first["precond"] != baseline) & first["lead_to"].notna()]
    parts = [
        f"{row['precond']} leads at NFE {row['nfe']} from {lead_cell(row, baseline)}"
        for row in first.to_dict("records")
    ]
    return "; ".join(parts or ["Nobody leads"]) + "."
