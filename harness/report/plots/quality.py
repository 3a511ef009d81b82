"""Quality against training images or seconds, one panel per NFE."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
from matplotlib.ticker import EngFormatter, MaxNLocator

from harness.report.plots.style import Plot, PlotStyle, legend_below, log_ticks, panels, plain

LABELS = {
    "images": "training images",
    "seconds": "seconds, calibration included",
}


def quality(
    points: pd.DataFrame,
    styles: dict[str, PlotStyle],
    title: str,
    name: str,
    clock: Literal["images", "seconds"],
) -> Plot:
    """Medians over seeds with their range, from `curve_points` of one problem and protocol.

    The value axis is logarithmic if all values are positive. Lines have gaps where a median is not
    finite.
    """
    steps = sorted(points["nfe"].unique())
    finite = points.replace([math.inf, -math.inf], math.nan)
    figure, axes = panels(len(steps), 2.3, 1.9)
    for axis, nfe in zip(axes, steps, strict=True):
        shown = finite[finite["nfe"] == nfe]
        for precond, style in styles.items():
            curve = shown[shown["precond"] == precond]
            if len(curve):
                axis.plot(curve[clock], curve["median"], label=plain(style.legend), **style.line())
                band = (curve[clock], curve["low"], curve["high"])
                axis.fill_between(*band, color=style.colour, alpha=0.15, lw=0)
        values = shown["low"].dropna()
        if len(values) and (finite["low"].dropna() > 0).all():
            log_ticks(axis, axis.yaxis)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_title(f"NFE {nfe}")
        axis.set_xlabel(LABELS[clock])
    better = "lower" if points["lower_is_better"].all() else "higher"
    figure.supylabel(plain(f"{points['metric'].iloc[0]} ({better} is better)"), fontsize=9)
    legend_below(figure, axes, styles)
    alt = f"Quality against {LABELS[clock]}: median over seeds, band from lowest to highest."
    return Plot(name, title, alt, figure)
