"""Training speed as bars: how many times fewer images than the baseline, with intervals."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.report.plots.style import Plot, PlotStyle, panels, plain, times

#: the outer tick, by how far from 1x the axis goes
TICKS = {1.5: 1.25, 2.0: 1.5, 5.0: 2, 20.0: 4, 100.0: 16, math.inf: 64}
BOUNDS = {
    "<": "never got there: at most",
    ">": "the baseline never got there: at least",
    "?": "not known",
}


def speed_bars(speed: pd.DataFrame, styles: dict[str, PlotStyle], title: str, name: str) -> Plot:
    """Bars from 1x to the median speed-up, whiskers over seeds; `speed` is of one target.

    Bars of bounds are open and hatched and end in an arrow towards the true value.
    """
    steps = sorted(speed["nfe"].unique())
    names = [precond for precond in styles if precond in set(speed["precond"])]
    reach = _reach(speed)
    tick = next(tick for limit, tick in TICKS.items() if reach**1.3 < limit)
    figure, axes = panels(len(steps), 2.3, max(1.5, 0.75 + 0.24 * len(names)), sharey=True)
    for axis, nfe in zip(axes, steps, strict=True):
        mine = speed[speed["nfe"] == nfe].set_index("precond")
        axis.set_xscale("log")
        axis.set_xlim(1 / reach**1.3, reach**1.3)
        for place, precond in enumerate(names):
            if precond in mine.index:
                _bar(axis, place, mine.loc[precond].to_dict(), styles[precond], reach)
        axis.axvline(1, color="#000000", lw=0.8)
        axis.xaxis.set_major_locator(FixedLocator([1 / tick, 1, tick]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: times(value)))
        axis.set_title(f"NFE {nfe}")
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(names)), [plain(styles[precond].legend) for precond in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(
        "speed-up in training images, right is faster; an arrow: only a bound is known,\n"
        "the truth lies further that way",
        fontsize=8,
    )
    return Plot(name, title, _in_words(speed), figure)


def _bar(axis: Any, place: int, row: dict[str, Any], style: PlotStyle, reach: float) -> None:
    if not row["seeds"] or row["bound"] == "?":
        told = "not known" if row["seeds"] else "no complete seed"
        axis.text(1, place, f" {told}", va="center", fontsize=7, color="#606060")
        return
    value, low, high = (
        min(max(row[key], 1 / reach), reach) for key in ("speedup", "speedup_low", "speedup_high")
    )
    hollow = bool(row["bound"]) or not style.filled
    axis.barh(
        place,
        value - 1,
        0.62,
        left=1,
        facecolor="none" if hollow else style.colour,
        edgecolor=style.colour,
        hatch="//////" if row["bound"] else None,
        alpha=None if hollow else 0.75,
    )
    # an interval is drawn as far as it says more than the bound does
    low, high = value if row["bound"] == "<" else low, value if row["bound"] == ">" else high
    if high > low:
        axis.plot([low, high], [place, place], color="#000000", lw=1, marker="|", markersize=6)
    away = {"<": 1 / reach**0.25, ">": reach**0.25}.get(row["bound"])
    if away:
        tip = {"markevery": [1], "marker": row["bound"], "markersize": 5}
        axis.plot([value, value * away], [place, place], color=style.colour, lw=1.2, **tip)
    elif math.isinf(row["speedup"]):
        axis.text(reach, place, "from the start", va="center", ha="right", fontsize=7)


def _reach(speed: pd.DataFrame) -> float:
    """Extent of the axis to either side of 1x: all finite values, within 1.25 to 100 times."""
    values = speed[["speedup", "speedup_low", "speedup_high"]].to_numpy().ravel()
    finite = [value for value in values if 0 < value < math.inf]
    return float(min(max([*finite, *(1 / value for value in finite), 1.25]), 100.0))


def _in_words(speed: pd.DataFrame) -> str:
    parts = []
    for row in speed.to_dict("records"):
        if row["seeds"]:
            bound = f" ({BOUNDS[row['bound']]})" if row["bound"] else ""
            parts.append(f"{row['precond']} at NFE {row['nfe']}: {row['speedup']:.2f}{bound}")
    return "; ".join(parts) + "."
